"""The options of batch jobs."""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from visionsplit.command_line.parser import Kind, add_option, any_text, at_least, one_of, pool_size, positive
from visionsplit_batch.formats import INPUT_FORMATS, OUTPUT_FORMATS
from visionsplit_batch.job.parts import ROWS_PER_PART
from visionsplit_client import DEFAULT_ENCODER

from visionsplit_cli import options as shared
from visionsplit_cli.caption import DEFAULT_PROMPT

_ROWS_PER_TOKENS_PART = 64  # they wait in memory: LLaVA-NeXT's tokens make 1 to 6 MB an image in float16, uncompressed
_name, _folder = replace(any_text, metavar="NAME"), replace(any_text, metavar="FOLDER")


def add(parser: argparse.ArgumentParser, kind: str) -> None:
    _add_input(parser, kind)
    _add_output(parser, kind)
    if kind != "encode":
        add_option(
            parser,
            "--prompt",
            any_text,
            "The question about every image; {NAME} stands for the value of that column, {{NAME}} for the text {NAME}. "
            "The option may be repeated; each image is still encoded once.",
            absent=f'"{DEFAULT_PROMPT}"',
            action="append",
            dest="prompts",
        )
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
    add = partial(add_option, group)
    add("--format", one_of(INPUT_FORMATS), "The format of the input.", absent="found by its name and content")
    text = "The column with a unique value for each row."
    add("--id-column", _name, text, absent="none; a row's place is its id")
    text = "The column with bytes, paths or URLs of images."
    add("--image-column", _name, text, absent="found by its name and values")
    text = "The column with a question for each row."
    add("--prompt-column", _name, text, absent="none; --prompt is asked")
    text = "The folder where relative paths of images begin."
    add("--image-root", _folder, text, absent="the folder of the file that has the paths")
    add("--split", _name, "The split of a saved Hugging Face dataset.", absent="the only one")


def _add_output(parser: argparse.ArgumentParser, kind: str) -> None:
    group = parser.add_argument_group("output")
    add = partial(add_option, group)
    text = "The output folder: a new one, or that of a run to continue."
    add("-o", _folder, text, alias="--output", required=True)
    if kind != "encode":
        text = "The format of the output."
        add("--output-format", one_of(OUTPUT_FORMATS), text, absent="jsonl; openai for input in that format")
    rows = _ROWS_PER_TOKENS_PART if kind == "encode" else ROWS_PER_PART
    add("--rows-per-file", at_least(1), "The most rows of one output file.", rows)
    text = "A column of the input to carry along into the output; the option may be repeated."
    add("--column", _name, text, absent="all columns", action="append", dest="columns")
    group.add_argument("--no-columns", action="store_true", help="Carry no column of the input along.")


def _add_workers(parser: argparse.ArgumentParser, kind: str) -> None:
    address = replace(any_text, metavar="HOST:PORT")
    add = partial(add_option, parser.add_argument_group("running services", "Used unless --model is given."))
    if kind != "ask":
        text = "The encoder service's address; the option may be repeated."
        add("--encoder", address, text, absent=DEFAULT_ENCODER, action="append")
        add("--llm", address, "The LLM service's address, to ask several questions about one encoding.")
    else:
        add("--llm", address, "The LLM service's address.", shared.DEFAULT_LLM)
    add("--in-flight", at_least(1), "The most rows that the services work on at once.", 32)
    shared.add_security(parser)
    group = parser.add_argument_group(
        "on Ray", "The job starts the services that it needs, on this machine or on a Ray cluster, and stops them."
    )
    add = partial(add_option, group)
    text = "The checkpoint to start, as a folder or a Hugging Face hub id."
    add("--model", _name, text, absent="none; running services are used")
    add(
        "--ray-address",
        replace(any_text, metavar="ADDRESS", show=lambda address: f"{address}, which starts a cluster for the job"),
        "The address of a running Ray cluster, or auto.",
        "local",
    )
    if kind != "ask":
        text = "The most pixels of one image; rows with a larger one fail."
        add("--max-image-pixels", at_least(1), text, absent="64000000")
        add("--text-tower", _name, "The CLIP checkpoint for methods that read the prompt.")
        _add_pool(add, "encoder", "encoders")
        add("--encoder-cpus", at_least(1), "The number of threads of each encoder without a GPU.", 1)
    if kind != "encode":
        _add_pool(add, "llm", "language models")
        on_a_cluster = "1; without GPUs, on a cluster that the job starts, all CPUs of the machine"
        add("--llm-cpus", at_least(1), "The number of CPUs of each language model.", absent=on_a_cluster)


def _add_pool(add: Callable[..., None], name: str, workers: str) -> None:
    add(f"--{name}s", pool_size, f"The number of {workers}; a range such as 2-8 follows the work.", (1, 1))
    text = "The share of a GPU for each of them; 0 uses the CPU."
    add(f"--{name}-gpus", _gpus, text, absent="the GPUs that there are, shared evenly")


def _add_job(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("job")
    group.add_argument("--retry-errors", action="store_true", help="Also try the rows that failed in earlier runs.")
    text = "Stop when more rows than this fail."
    stops = "the job stops if all of its first 100 rows fail"
    add_option(group, "--max-failures", at_least(0), text, absent=stops)
    add_option(group, "--timeout", positive, "The time limit of each call, in seconds.", 600.0)
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
        raise ValueError(f"{text} is not a share of a GPU; a number from 0 on is needed, such as 0.5")
    return share


_gpus = Kind(_share, "a share of a GPU", "SHARE")
