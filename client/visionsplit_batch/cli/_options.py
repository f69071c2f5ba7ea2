"""The options of batch jobs."""

import argparse
import math

from visionsplit.command_line import at_least
from visionsplit_client._base import DEFAULT_ENCODER
from visionsplit_client.cli import _options as shared
from visionsplit_client.cli._caption import DEFAULT_PROMPT

from visionsplit_batch.job import JobOptions
from visionsplit_batch.sinks import FORMATS
from visionsplit_batch.sources import FORMATS as SOURCES

_GPUS = "0 uses the CPU (default: the GPUs that there are, shared evenly)"
_ROWS_PER_TOKENS_PART = 64  # they wait in memory: LLaVA-NeXT's tokens make 1 to 6 MB an image in float16, uncompressed


def add(parser: argparse.ArgumentParser, kind: str) -> None:
    _add_input(parser, kind)
    _add_output(parser, kind)
    if kind != "encode":
        _add_prompts(parser)
        shared.add_prefill(parser)
        shared.add_sampling(parser)
    if kind == "ask":
        parser.set_defaults(quotas_only=False)  # whether they were asked for is in the tokens
    else:
        shared.add_compression(parser)
    _add_workers(parser, kind)
    _add_job(parser)
    parser.set_defaults(parser=parser)


def _add_input(parser: argparse.ArgumentParser, kind: str) -> None:
    if kind == "ask":
        parser.add_argument(
            "inputs", nargs=1, metavar="INPUT", help="output folder of `batch encode`, or one of its files"
        )
        return
    group = parser.add_argument_group(
        "input", "Paths, or URIs of stores such as s3://; quote patterns, or a long list meets the shell's limits."
    )
    group.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folder of images, glob, images, .txt list, .jsonl, .json, .csv, .tsv, .parquet, WebDataset .tar, saved "
        "Hugging Face dataset",
    )
    group.add_argument(
        "--format",
        choices=[kind.format for kind in SOURCES],
        help="format of the input (default: found by its name and content)",
    )
    group.add_argument("--id-column", metavar="NAME", help="column with unique values (default: the row's place)")
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="column with bytes, paths or URLs of images (default: found by its name and values)",
    )
    group.add_argument(
        "--prompt-column", metavar="NAME", help="column with a question for each row (default: none, see --prompt)"
    )
    group.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="folder where relative paths of images begin (default: the folder of the file that has them)",
    )
    group.add_argument("--split", metavar="NAME", help="split of a Hugging Face dataset that has several")


def _add_output(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="a new one, or that of a run to go on with"
    )
    if kind != "encode":
        group.add_argument("--output-format", choices=list(FORMATS), help="(default: jsonl; openai for such input)")
    rows = _ROWS_PER_TOKENS_PART if kind == "encode" else JobOptions.rows_per_part
    group.add_argument("--rows-per-file", type=at_least(1), default=rows, metavar="N", help="(default: %(default)s)")
    group.add_argument(
        "--column",
        action="append",
        dest="columns",
        metavar="NAME",
        help="of the input, to carry along; may be repeated (default: all)",
    )
    group.add_argument("--no-columns", action="store_true", help="carry none along")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        metavar="TEXT",
        help="asked of every image, with a column's value for {its name}; may be repeated, for one encoding "
        f'(default: "{DEFAULT_PROMPT}")',
    )


def _add_workers(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("running services", "Used unless --model is given.")
    if kind != "ask":
        group.add_argument(
            "--encoder", action="append", metavar="HOST:PORT", help=f"may be repeated (default: {DEFAULT_ENCODER})"
        )
    text = (
        f"(default: {shared.DEFAULT_LLM})" if kind == "ask" else "asked directly, where an image gets several questions"
    )
    group.add_argument("--llm", default=shared.DEFAULT_LLM if kind == "ask" else None, metavar="HOST:PORT", help=text)
    group.add_argument(
        "--in-flight",
        type=at_least(1),
        default=32,
        metavar="N",
        help="rows with the services at once (default: %(default)s)",
    )
    shared.add_security(parser)
    group = parser.add_argument_group("on Ray", "A job that starts what it needs, here or on a cluster.")
    group.add_argument("--model", metavar="NAME", help="checkpoint: a folder or a name on the hub")
    group.add_argument(
        "--ray-address", default="local", metavar="ADDRESS", help="of a running cluster, or auto (default: start one)"
    )
    if kind != "ask":
        group.add_argument(
            "--max-image-pixels",
            type=at_least(1),
            metavar="N",
            help="most pixels of an image; rows with larger ones fail (default: the encoder's, 64000000)",
        )
        group.add_argument("--text-tower", metavar="NAME", help="CLIP checkpoint for methods that read the prompt")
        group.add_argument(
            "--encoders",
            type=_pool,
            default=(1, 1),
            metavar="N[-M]",
            help="actors that encode; a range is scaled (default: 1)",
        )
        group.add_argument("--encoder-gpus", type=_share, metavar="SHARE", help=f"share of a GPU for each; {_GPUS}")
        group.add_argument(
            "--encoder-cpus",
            type=at_least(1),
            default=1,
            metavar="N",
            help="for each: threads, without a GPU (default: 1)",
        )
    if kind != "encode":
        group.add_argument(
            "--llms", type=_pool, default=(1, 1), metavar="N[-M]", help="actors that answer (default: 1)"
        )
        group.add_argument("--llm-gpus", type=_share, metavar="SHARE", help=f"share of a GPU for each; {_GPUS}")
        group.add_argument(
            "--llm-cpus",
            type=at_least(1),
            metavar="N",
            help="for each (default: 1; without GPUs, on a cluster started here, all that the machine has)",
        )


def _add_job(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job")
    group.add_argument("--retry-errors", action="store_true", help="also do the rows that failed in earlier runs")
    group.add_argument(
        "--max-failures", type=at_least(0), metavar="N", help="break off when more rows fail (default: never)"
    )
    group.add_argument(
        "--timeout",
        type=shared.positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="for each call (default: %(default)g)",
    )
    output = group.add_mutually_exclusive_group()
    output.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    output.add_argument("--json", action="store_true", help="progress and summary as JSON lines on stdout")
    group.add_argument("-v", "--verbose", action="store_true", help="log each part and each row that fails")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no share of a GPU; a number from 0 on is needed, such as 0.5")
    return share


def _pool(text: str) -> tuple[int, int]:
    least, _, most = text.partition("-")
    positive = at_least(1)
    pool = positive(least), positive(most or least)
    if pool[0] > pool[1]:
        raise argparse.ArgumentTypeError(f"{text}: the first number is the smaller one")
    return pool
