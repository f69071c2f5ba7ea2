"""Measures whether a separate forward pass for the thumbnail pays: when the first and the last tokens are ready.

    python -m benchmarks.thumbnail_pass [--device cuda] [--dtype bfloat16] [--repeats 3]

One CLIP ViT-L/14-336 tower with random weights and the five tiles of a 2 x 2 image, encoded in one pass or as
thumbnail, then crops. Medians of alternating runs.
"""

import argparse
import statistics
import time

import torch
from visionsplit.families.llava_next.vision_tower import VisionTower

from benchmarks.selection_cost import machine, random_tower, wait_for
from benchmarks.shapes import CLIP_L
from encoder_service.compression import TowerOutput

LOGITS = frozenset({TowerOutput.SALIENCE})


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    tower = random_tower(CLIP_L, device, dtype)
    tiles = torch.randn(5, 3, CLIP_L.image_size, CLIP_L.image_size, device=device)
    print(f"{machine(device)}, {options.dtype}, torch {torch.__version__}; CLIP-L/14-336, 5 tiles", flush=True)
    together, apart = [], []
    for round_ in range(1 + options.repeats):
        one, two = timed(tower, [tiles]), timed(tower, [tiles[:1], tiles[1:]])
        if round_:  # the first round loads kernels
            together.append(one)
            apart.append(two)
    base = statistics.median(times[-1] for times in together)
    print(f"{'passes':<22}{'first tokens':>14}{'last tokens':>14}   (1.00 = one pass, {base * 1e3:.1f} ms)")
    for name, runs in (("one", together), ("thumbnail, then crops", apart)):
        first, last = (statistics.median(times[index] for times in runs) / base for index in (0, -1))
        print(f"{name:<22}{first:>14.2f}{last:>14.2f}")


def timed(tower: VisionTower, batches: list[torch.Tensor]) -> list[float]:
    """Seconds from the start until each batch is done."""
    done = []
    wait_for(tower.device)
    started = time.perf_counter()
    for batch in batches:
        tower(batch, LOGITS)
        wait_for(tower.device)
        done.append(time.perf_counter() - started)
    return done


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures whether a separate forward pass for the thumbnail pays.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
