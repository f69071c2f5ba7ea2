"""A job put together from its options."""

import argparse
import hashlib
import json
import sys
from contextlib import closing, redirect_stdout
from typing import Any

from visionsplit.visible import visible
from visionsplit_batch.job.job import Job, JobOptions, JobSummary
from visionsplit_batch.job.progress_report import Bar, Events, Lines, Progress, StageShares
from visionsplit_batch.job.saved_progress import RunFolder
from visionsplit_batch.job.settings import labels_of, run_settings
from visionsplit_batch.job.summary import input_json, input_text, left_out_text, summary_json, summary_text
from visionsplit_batch.rows.left_out import LeftOut, needs_attention
from visionsplit_batch.rows.named_columns import check_columns
from visionsplit_batch.rows.rows import Source
from visionsplit_batch.runners import Runner, Work
from visionsplit_batch.runners.services import ServicesRunner
from visionsplit_batch.sinks import Sink, TokensSink, sink_for
from visionsplit_batch.sources import Columns, open_source
from visionsplit_batch.sources.tokens import TokenShards
from visionsplit_batch.storage.storage import Storage, absolute
from visionsplit_client import DEFAULT_ENCODER

from visionsplit_cli import options as shared
from visionsplit_cli import output as _output
from visionsplit_cli.caption import DEFAULT_PROMPT


def run(args: argparse.Namespace) -> tuple[JobSummary, tuple[LeftOut, ...]]:
    """The whole job, from listing to summary; also what was left out of the input.

    Raises:
        SystemExit: a wrong usage.
        VisionSplitError, OSError, ValueError: it cannot begin, or cannot go on.
    """
    storage = Storage()
    work = _work(args)
    output = absolute(args.output)
    folder = RunFolder(output, storage)
    folder.check_access()
    source = _source(args, storage, output)
    columns = [] if args.no_columns else args.columns
    check_columns(source, columns or (), work.columns)
    total = sum(1 for _ in source.entries())  # also finds what is wrong before any work is done
    left_out = source.left_out
    _say(args, input_text(source.settings(), total), input_json(source.settings(), total))
    with _runner(args, source, work, output) as runner:
        output_format = _output_format(args, source)
        settings = run_settings(
            source,
            work,
            runner.identity(),
            output_format=output_format,
            columns=columns,
            rows_per_part=args.rows_per_file,
        )
        labels = labels_of(settings, work, runner.identity())
        sink: Sink[Any] = (
            TokensSink(storage, labels, args.rows_per_file, columns)
            if args.kind == "encode"
            else sink_for(output_format, storage, labels, columns)
        )
        shares = StageShares(runner.stages)
        progress = _progress(args, shares, total)
        # Ray prints to stdout, where a scheduler reads our events.
        with folder.opened(settings), closing(progress), redirect_stdout(sys.stderr):
            job = Job[Any](
                source,
                runner,
                folder,
                sink,
                JobOptions(args.rows_per_file, retry_errors=args.retry_errors, max_failures=args.max_failures),
                total=total,
                on_progress=progress.update,
            )
            summary = job.run()
        shares.refresh(force=True)
    if args.json:
        print(summary_json(summary, shares.overall, left_out))
    elif not args.quiet:
        print(visible(summary_text(summary, shares.overall, args.output)))
    if left_out and not args.json and (not args.quiet or needs_attention(left_out)):
        _output.warn(left_out_text(left_out))
    return summary, left_out


def _say(args: argparse.Namespace, text: str, event: str) -> None:
    """Something that is known before the first row."""
    if args.json:
        print(event, flush=True)
    elif not args.quiet:
        print(visible(text), file=sys.stderr, flush=True)


def _output_format(args: argparse.Namespace, source: Source) -> str:
    if args.kind == "encode":
        return "tokens"
    same = source.settings().get("format") == "openai"
    return str(args.output_format or ("openai" if same else "jsonl"))


def _progress(args: argparse.Namespace, shares: StageShares, total: int) -> Progress:
    if args.quiet:
        return Progress()
    if args.json:
        return Events(shares, sys.stdout)
    return Bar(shares, total) if sys.stderr.isatty() else Lines(shares)


def _work(args: argparse.Namespace) -> Work:
    asked: dict[str, Any] = {}
    if args.kind != "ask":
        asked |= {"compression": shared.compression_from(args), "data_type": args.data_type}
    if args.kind != "encode":
        asked |= {"prompts": tuple(args.prompts or (DEFAULT_PROMPT,)), **shared.answer_options(args)}
    return Work(args.kind, timeout=args.timeout, **asked)


def _source(args: argparse.Namespace, storage: Storage, output: str) -> Source:
    if args.kind == "ask":
        return TokenShards(args.inputs[0], storage)
    columns = Columns(id=args.id_column, image=args.image_column, prompt=args.prompt_column)
    return open_source(
        args.inputs,
        format=args.format,
        columns=columns,
        split=args.split,
        image_root=args.image_root,
        output=output,
    )


def _runner(args: argparse.Namespace, source: Source, work: Work, output: str) -> Runner:
    if args.model is not None:
        return _ray_runner(args, source, work, output)
    encoders: list[str] = [] if args.kind == "ask" else args.encoder or [DEFAULT_ENCODER]
    security = shared.security_from(args)
    return ServicesRunner(source, work, encoders, args.llm, in_flight=args.in_flight, security=security)


def _ray_runner(args: argparse.Namespace, source: Source, work: Work, output: str) -> Runner:
    # Only such a job needs Ray, PyTorch and the services.
    from visionsplit_batch.runners.pools import Pools
    from visionsplit_batch.runners.ray_runner import RayRunner
    from visionsplit_batch.runners.ray_services import service_configs

    sizes: dict[str, Any] = {}
    images: dict[str, Any] = {}
    if args.kind != "ask":
        sizes |= {"encoders": args.encoders, "encoder_gpus": args.encoder_gpus, "encoder_cpus": args.encoder_cpus}
        images = {"text_tower": args.text_tower, "max_image_pixels": args.max_image_pixels}
    if args.kind != "encode":
        sizes |= {"llms": args.llms, "llm_gpus": args.llm_gpus, "llm_cpus": args.llm_cpus}
    encoder, llm = service_configs(args.model, args.kind, **images)

    def on_start(pools: str) -> None:
        text = f"starting {pools} for {args.model} on Ray; the first rows wait until the models are loaded"
        _say(args, text, json.dumps({"event": "start", "model": args.model, "pools": pools}))

    return RayRunner(
        source,
        work,
        encoder=encoder,
        llm=llm,
        pools=Pools(**sizes),
        address=args.ray_address,
        # The same command finds the language models again that a killed job has left on a cluster.
        application=f"visionsplit-batch-{hashlib.sha256(output.encode()).hexdigest()[:16]}",
        on_start=on_start,
    )
