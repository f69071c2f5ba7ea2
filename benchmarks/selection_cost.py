"""Measures the cost of choosing tokens relative to the vision tower, on the same device.

    python -m benchmarks.selection_cost [--device cuda] [--dtype bfloat16] [--tiles 5] [--images 1] [--threads 2]
        [--repeats 5]

Two vision towers with random weights: CLIP ViT-L/14 at 336 pixels (LLaVA-NeXT's) and the shape of the shipped small
model. Selection is everything between the tower's features and the kept tokens: the [CLS] scores from the last layer's
input, the budgets, the choice, and gathering the kept features. Images are padded, which is the dearer case. The images
of a batch choose together. Medians.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlavaNextConfig
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression

from benchmarks.shapes import CLIP_L, SHIPPED
from encoder_service.compression import Composition, NextTiles, Plan, TowerOutput, compose, take_together

_METHODS = ("globalcom2", "globalcom2-diverse")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    print(
        f"{machine(device)}, {options.dtype}, torch {torch.__version__}; batches of {options.images} images of "
        f"{options.tiles} tiles, 10%",
        flush=True,
    )
    shipped = LlavaNextConfig.from_pretrained(SHIPPED).vision_config
    print(f"{'vision tower':<16}  {'method':<20}{'tower ms':>12}{'scores ms':>12}{'choice ms':>12}{'share':>9}")
    for name, config in (("visionsplit-mini", shipped), ("CLIP-L/14-336", CLIP_L)):
        tower_s, scores_s, choices = measure(config, options.tiles, options.images, options.repeats, device, dtype)
        for method, choice_s in choices.items():
            share = (scores_s + choice_s) / tower_s
            times = f"{tower_s * 1e3:>12.3f}{scores_s * 1e3:>12.3f}{choice_s * 1e3:>12.3f}"
            print(f"{name:<16}  {method:<20}{times}{share:>9.2%}", flush=True)


@torch.inference_mode()
def measure(
    config: CLIPVisionConfig, tiles: int, images: int, repeats: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float, dict[str, float]]:
    """Median seconds of the tower without scores, of the scores, and by method of choosing and gathering."""
    tower = random_tower(config, device, dtype)
    side = config.image_size // config.patch_size
    grid = _grid(tiles, side)
    pixels = torch.randn(images * tiles, 3, config.image_size, config.image_size, device=device)
    nothing, logits = frozenset[TowerOutput](), frozenset({TowerOutput.SALIENCE})
    encoded = tower(pixels, logits)
    state = torch.cat((encoded.features[:, :1], encoded.features), dim=1)  # [T, 1 + P, D], the last layer's input

    def choose(method: Composition) -> object:
        parts = [encoded.tiles(first, first + tiles) for first in range(0, images * tiles, tiles)]
        return take_together([NextTiles(Plan(method, grid, device), 0, tiles, part) for part in parts])

    methods = {name: compose(Compression(name, 0.1)) for name in _METHODS}
    return (
        _median(lambda: tower(pixels, nothing), repeats, device),
        _median(lambda: tower.score_head(state), repeats * 20, device),
        {name: _median(partial(choose, method), repeats * 20, device) for name, method in methods.items()},
    )


def _median(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    seconds = []
    for round_ in range(1 + repeats):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        if round_:  # the first round loads kernels and fills caches
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_tower(config: CLIPVisionConfig, device: torch.device, dtype: torch.dtype) -> VisionTower:
    torch.manual_seed(0)
    tower = VisionTower(LlavaNextConfig(vision_config=config), dtype=dtype, device=device)
    for parameter in tower.parameters():
        parameter.requires_grad_(False).normal_(std=0.02)
    return tower.eval()


def _grid(tiles: int, side: int) -> TileGrid:
    rows, columns = {5: (2, 2), 4: (1, 3), 3: (1, 2)}[tiles]
    return TileGrid.padded(rows * 300, columns * 336, rows=rows, columns=columns, side=side)


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    return f"{model or platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What choosing the tokens costs beside the vision tower.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--tiles", type=int, default=5, choices=[3, 4, 5], help="5 is a 2 x 2 image")
    parser.add_argument("--images", type=int, default=1, help="in a batch (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
