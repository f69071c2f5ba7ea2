"""The options of batch jobs."""

import argparse
import math

from visionsplit.command_line.parser import at_least, pool_size
from visionsplit_batch.formats import INPUT_FORMATS, OUTPUT_FORMATS
from visionsplit_batch.job.parts import ROWS_PER_PART
from visionsplit_client import DEFAULT_ENCODER

from visionsplit_cli import options as shared
from visionsplit_cli.caption import DEFAULT_PROMPT

_GPUS = "0 uses the CPU. Default: the GPUs that there are, shared evenly."
_ROWS_PER_TOKENS_PART = 64  # they wait in memory: LLaVA-NeXT's tokens make 1 to 6 MB an image in float16, uncompressed


def add(parser: argparse.ArgumentParser, kind: str) -> None:
    _add_input(parser, kind)
    _add_output(parser, kind)
    if kind != "encode":
        _add_prompts(parser)
        shared.add_prefill(parser)
        shared.add_sampling(parser)
    if kind != "ask":
        shared.add_compression(parser)
    _add_workers(parser, kind)
    _add_job(parser)
    parser.set_defaults(parser=parser)


def _add_input(parser: argparse.ArgumentParser, kind: str) -> None:
    if kind == "ask":
        parser.add_argument(
            "inputs",
            nargs=1,
            metavar="INPUT",
            help="The output folder of `visionsplit batch encode`, or one of its files.",
        )
        return
    group = parser.add_argument_group(
        "input",
        "Paths, or URIs of object stores such as s3://. Quote patterns, so that the shell does not expand them.",
    )
    group.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="A folder of images, a pattern, images, a .txt list, .jsonl, .json, .csv, .tsv, .parquet, WebDataset .tar "
        "files, or a saved Hugging Face dataset.",
    )
    group.add_argument(
        "--format",
        choices=INPUT_FORMATS,
        help="The format of the input. Default: found by its name and content.",
    )
    group.add_argument(
        "--id-column",
        metavar="NAME",
        help="The column with a unique value for each row. Default: none; a row's place is its id.",
    )
    group.add_argument(
        "--image-column",
        metavar="NAME",
        help="The column with bytes, paths or URLs of images. Default: found by its name and values.",
    )
    group.add_argument(
        "--prompt-column",
        metavar="NAME",
        help="The column with a question for each row. Default: none; --prompt is asked.",
    )
    group.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="The folder where relative paths of images begin. Default: the folder of the file that has the paths.",
    )
    group.add_argument(
        "--split", metavar="NAME", help="The split of a saved Hugging Face dataset. Default: the only one."
    )


def _add_output(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help="The output folder: a new one, or that of a run to continue. Required.",
    )
    if kind != "encode":
        group.add_argument(
            "--output-format",
            choices=OUTPUT_FORMATS,
            help="The format of the output. Default: jsonl; openai for input in that format.",
        )
    rows = _ROWS_PER_TOKENS_PART if kind == "encode" else ROWS_PER_PART
    group.add_argument(
        "--rows-per-file",
        type=at_least(1),
        default=rows,
        metavar="N",
        help="The most rows of one output file. Default: %(default)s.",
    )
    group.add_argument(
        "--column",
        action="append",
        dest="columns",
        metavar="NAME",
        help="A column of the input to carry along into the output; the option may be repeated. Default: all columns.",
    )
    group.add_argument("--no-columns", action="store_true", help="Carry no column of the input along.")


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        action="append",
        dest="prompts",
        metavar="TEXT",
        help="The question about every image; {NAME} stands for the value of that column, "
        "{{NAME}} for the text {NAME}. The option may be repeated; "
        f'each image is still encoded once. Default: "{DEFAULT_PROMPT}"',
    )


def _add_workers(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("running services", "Used unless --model is given.")
    if kind != "ask":
        group.add_argument(
            "--encoder",
            action="append",
            metavar="HOST:PORT",
            help=f"The encoder service's address; the option may be repeated. Default: {DEFAULT_ENCODER}.",
        )
    text = (
        f"The LLM service's address. Default: {shared.DEFAULT_LLM}."
        if kind == "ask"
        else "The LLM service's address, to ask several questions about one encoding. Default: none."
    )
    group.add_argument("--llm", default=shared.DEFAULT_LLM if kind == "ask" else None, metavar="HOST:PORT", help=text)
    group.add_argument(
        "--in-flight",
        type=at_least(1),
        default=32,
        metavar="N",
        help="The most rows that the services work on at once. Default: %(default)s.",
    )
    shared.add_security(parser)
    group = parser.add_argument_group(
        "on Ray", "The job starts the services that it needs, on this machine or on a Ray cluster, and stops them."
    )
    group.add_argument(
        "--model",
        metavar="NAME",
        help="The checkpoint to start, as a folder or a Hugging Face hub id. Default: none; running services are used.",
    )
    group.add_argument(
        "--ray-address",
        default="local",
        metavar="ADDRESS",
        help="The address of a running Ray cluster, or auto. Default: %(default)s, which starts a cluster for the job.",
    )
    if kind != "ask":
        group.add_argument(
            "--max-image-pixels",
            type=at_least(1),
            metavar="N",
            help="The most pixels of one image; rows with a larger one fail. Default: 64000000.",
        )
        group.add_argument(
            "--text-tower", metavar="NAME", help="The CLIP checkpoint for methods that read the prompt. Default: none."
        )
        group.add_argument(
            "--encoders",
            type=pool_size,
            default=(1, 1),
            metavar="N[-M]",
            help="The number of encoders; a range such as 2-8 follows the work. Default: 1.",
        )
        group.add_argument(
            "--encoder-gpus", type=_share, metavar="SHARE", help=f"The share of a GPU for each of them; {_GPUS}"
        )
        group.add_argument(
            "--encoder-cpus",
            type=at_least(1),
            default=1,
            metavar="N",
            help="The number of threads of each encoder without a GPU. Default: 1.",
        )
    if kind != "encode":
        group.add_argument(
            "--llms",
            type=pool_size,
            default=(1, 1),
            metavar="N[-M]",
            help="The number of language models; a range such as 2-8 follows the work. Default: 1.",
        )
        group.add_argument(
            "--llm-gpus", type=_share, metavar="SHARE", help=f"The share of a GPU for each of them; {_GPUS}"
        )
        group.add_argument(
            "--llm-cpus",
            type=at_least(1),
            metavar="N",
            help="The number of CPUs of each language model. Default: 1; without GPUs, on a cluster that "
            "the job starts, all CPUs of the machine.",
        )


def _add_job(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job")
    group.add_argument("--retry-errors", action="store_true", help="Also try the rows that failed in earlier runs.")
    group.add_argument(
        "--max-failures",
        type=at_least(0),
        metavar="N",
        help="Stop when more rows than this fail. Default: the job stops if all of its first 100 rows fail.",
    )
    group.add_argument(
        "--timeout",
        type=shared.positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="The time limit of each call, in seconds. Default: %(default)g.",
    )
    output = group.add_mutually_exclusive_group()
    output.add_argument("-q", "--quiet", action="store_true", help="Print errors only.")
    output.add_argument("--json", action="store_true", help="Print progress and summary as JSON lines on stdout.")
    group.add_argument("-v", "--verbose", action="store_true", help="Log each finished part and each row that fails.")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a share of a GPU; a number from 0 on is needed, such as 0.5")
    return share
