"""The LLM service alone at saturation on this machine's CPU, and where the time of the default engine's steps goes.

    python -m benchmarks.engine_profile [--ratios 1 0.25 0.1] [--callers 16] [--requests 48] [--engines ...]

Images are encoded first and not measured. Each engine then answers about all of them, as a service in a separate
process with default settings. The default engine answers once more in this process, under PyTorch's profiler.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging
from visionsplit_client import Client, Compression, EncodedImage, Sampling
from visionsplit_local import VisionSplit

from benchmarks.batch import inputs
from benchmarks.efficiency.tables import markdown
from benchmarks.peers import inputs as peers_inputs
from benchmarks.peers.contestants import llm_service, service_environment
from benchmarks.peers.plan import ENGINES
from benchmarks.peers.vllm_server import add_vllm_python
from benchmarks.selection_cost import machine

_PROMPT = "Describe the image."
_NEW_TOKENS = 16
# Operators of PyTorch by the beginning of their names. The first that fits counts.
_PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("aten::_scaled_dot_product",),
    "copies of keys and values": ("aten::index_select", "aten::index_copy_"),
    "other operators": ("",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the tables go to stdout as they are ready."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()
    print(f"{machine(torch.device('cpu'))}, {os.cpu_count()} cores; torch {torch.__version__}", flush=True)
    print(f"{options.requests} requests of {_NEW_TOKENS} new tokens, {options.callers} at a time\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="visionsplit-engine-") as folder:
        model = peers_inputs.proportioned(Path(folder) / "model", tiny=False)
        images = inputs.write_images(Path(folder) / "images", range(options.requests + options.callers))
        with VisionSplit(str(model), device="cpu") as whole:
            tokens = {
                ratio: [_encoded(whole, path, ratio) for path in sorted(images.iterdir())] for ratio in options.ratios
            }
            parts = list(_parts(whole, tokens, options.callers))
        print(
            markdown(("ratio", "prompt tokens", "images/s", *_PARTS, "between operators"), parts),
            "",
            flush=True,
            sep="\n",
        )
        rates = [row for engine in options.engines for row in _rates(engine, model, tokens, options)]
        print(markdown(("engine", "ratio", "images/s"), rates), flush=True)
    return 0


def _encoded(whole: VisionSplit, path: Path, ratio: float) -> EncodedImage:
    return whole.encode(path, Compression("none") if ratio == 1 else Compression("globalcom2", ratio))


def _parts(whole: VisionSplit, tokens: dict[float, list[EncodedImage]], callers: int) -> Iterator[tuple[str, ...]]:
    """The shares of wall time in the default engine's operators, which run one after another on the engine's thread."""
    for ratio, images in tokens.items():
        _answer(whole, images[:callers], callers)
        # The engine's thread exists already, and the profiler covers only its own thread otherwise.
        config = _ExperimentalConfig(profile_all_threads=True)
        with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as profiler:
            seconds, prompt_tokens = _answer(whole, images[callers:], callers)
        spent: Counter[str] = Counter()
        for event in profiler.key_averages():
            part = next(part for part, names in _PARTS.items() if event.key.startswith(names))
            spent[part] += event.self_cpu_time_total / 1e6
        shares = [spent[part] / seconds for part in _PARTS]
        yield (
            f"{ratio:g}",
            f"{prompt_tokens:.0f}",
            f"{len(images[callers:]) / seconds:.2f}",
            *(f"{share:.0%}" for share in (*shares, 1 - sum(shares))),
        )


def _rates(
    engine: str, model: Path, tokens: dict[float, list[EncodedImage]], options: argparse.Namespace
) -> Iterator[tuple[str, ...]]:
    service = llm_service(engine, model, options.vllm_python, service_environment())
    service.start()
    try:
        service.wait_until_serving()
        with Client(llm=service.address) as client:
            for ratio, images in tokens.items():
                _answer(client, images[: options.callers], options.callers)
                seconds, _ = _answer(client, images[options.callers :], options.callers)
                yield engine, f"{ratio:g}", f"{(len(images) - options.callers) / seconds:.2f}"
    finally:
        service.stop()


def _answer(client: Client, images: Sequence[EncodedImage], callers: int) -> tuple[float, float]:
    """Seconds for all answers, and the mean length of the prompts."""
    sampling = Sampling(max_new_tokens=_NEW_TOKENS, temperature=0.0)
    with ThreadPoolExecutor(callers) as threads:
        started = time.perf_counter()
        answers = list(
            threads.map(lambda image: client.generate_from_tokens(image, _PROMPT, sampling=sampling), images)
        )
        seconds = time.perf_counter() - started
    return seconds, sum(answer.usage.prompt_tokens for answer in answers) / len(answers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine_profile", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--ratios", type=float, nargs="+", default=[1.0, 0.25, 0.1], metavar="R", help="(%(default)s)")
    add("--callers", type=int, default=16, metavar="N", help="requests at a time (%(default)s)")
    add("--requests", type=int, default=48, metavar="N", help="for each ratio (%(default)s)")
    add("--engines", nargs="*", choices=ENGINES, default=list(ENGINES), help="as services (%(default)s)")
    add_vllm_python(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
