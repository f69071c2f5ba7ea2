"""A job put together from its options."""

import argparse
import os
import sys
from contextlib import closing, redirect_stdout
from typing import Any

from visionsplit_client._base import DEFAULT_ENCODER
from visionsplit_client.cli import _options as shared
from visionsplit_client.cli._caption import DEFAULT_PROMPT

from visionsplit_batch.job import Job, JobOptions, JobSummary
from visionsplit_batch.progress import Bar, Events, Lines, Progress, Quiet, StageShares, summary_json, summary_text
from visionsplit_batch.recording import AnswersRecording, Recording, TokensRecording
from visionsplit_batch.rows import Source
from visionsplit_batch.run_folder import RunFolder, fingerprint
from visionsplit_batch.runners import Runner, Work
from visionsplit_batch.runners.services import ServicesRunner
from visionsplit_batch.settings import labels_of, run_settings
from visionsplit_batch.sinks import TokensSink, sink_for
from visionsplit_batch.sources import Columns, open_source
from visionsplit_batch.sources.tokens import TokenShards
from visionsplit_batch.storage import Storage, absolute


def run(args: argparse.Namespace) -> JobSummary:
    """The whole job, from listing to summary.

    Raises:
        SystemExit: a wrong usage.
        VisionSplitError, OSError, ValueError: it cannot begin, or cannot go on.
    """
    storage = Storage()
    work = _work(args)
    source = _source(args, storage)
    total = sum(1 for _ in source.entries())  # also finds what is wrong before any work is done
    output = absolute(args.output)
    with _runner(args, source, work) as runner:
        columns = [] if args.no_columns else args.columns
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
        recording: Recording[Any]
        if args.kind == "encode":
            recording = TokensRecording(TokensSink(storage, labels), columns)
        else:
            recording = AnswersRecording(sink_for(output_format, storage), labels, columns)
        folder = RunFolder(output, storage)
        shares = StageShares(runner.stages)
        progress = _progress(args, shares, total)
        # Ray prints to stdout, where a scheduler reads our events.
        with folder.opened(settings), closing(progress), redirect_stdout(sys.stderr):
            job = Job[Any](
                source,
                runner,
                folder,
                recording,
                JobOptions(args.rows_per_file, retry_errors=args.retry_errors, max_failures=args.max_failures),
                run=fingerprint(settings),
                total=total,
                on_progress=progress.update,
            )
            summary = job.run()
        shares.refresh(force=True)
    if args.json:
        print(summary_json(summary, shares.overall))
    elif not args.quiet:
        print(summary_text(summary, shares.overall, args.output))
    return summary


def _output_format(args: argparse.Namespace, source: Source) -> str:
    if args.kind == "encode":
        return "tokens"
    same = source.settings().get("format") == "openai"
    return str(args.output_format or ("openai" if same else "jsonl"))


def _progress(args: argparse.Namespace, shares: StageShares, total: int) -> Progress:
    if args.quiet:
        return Quiet()
    if args.json:
        return Events(shares, sys.stdout)
    return Bar(shares, total) if sys.stderr.isatty() else Lines(shares)


def _work(args: argparse.Namespace) -> Work:
    asks = args.kind != "encode"
    return Work(
        args.kind,
        prompts=tuple(args.prompts or (DEFAULT_PROMPT,)) if asks else (),
        compression=shared.compression_from(args) if args.kind != "ask" else None,
        data_type=args.data_type if args.kind != "ask" else None,
        pruning=shared.pruning_from(args) if asks else None,
        position_ids=args.position_ids if asks else None,
        sampling=shared.sampling_from(args) if asks else None,
        timeout=args.timeout,
    )


def _source(args: argparse.Namespace, storage: Storage) -> Source:
    if args.kind == "ask":
        return TokenShards(args.inputs[0], storage)
    columns = Columns(id=args.id_column, image=args.image_column, prompt=args.prompt_column)
    return open_source(args.inputs, format=args.format, columns=columns, split=args.split)


def _runner(args: argparse.Namespace, source: Source, work: Work) -> Runner:
    if args.model is not None:
        return _ray_runner(args, source, work)
    encoders: list[str] = [] if args.kind == "ask" else args.encoder or [DEFAULT_ENCODER]
    security = shared.security_from(args)
    return ServicesRunner(source, work, encoders, args.llm, in_flight=args.in_flight, security=security)


def _ray_runner(args: argparse.Namespace, source: Source, work: Work) -> Runner:
    # Only such a job needs Ray, PyTorch and the services.
    from encoder_service.config import EncoderConfig
    from llm_service.config import LlmConfig
    from visionsplit_batch.runners.pools import Pools
    from visionsplit_batch.runners.ray_data import RayDataRunner

    encodes, asks = args.kind != "ask", args.kind != "encode"
    sizes: dict[str, Any] = {}
    if encodes:
        sizes |= {"encoders": args.encoders, "encoder_gpus": args.encoder_gpus, "encoder_cpus": args.encoder_cpus}
    if asks:
        sizes |= {"llms": args.llms, "llm_gpus": args.llm_gpus, "llm_cpus": args.llm_cpus or _llm_cpus(args)}
    return RayDataRunner(
        source,
        work,
        encoder=EncoderConfig(args.model, text_tower=args.text_tower) if encodes else None,
        llm=LlmConfig(args.model) if asks else None,
        pools=Pools(**sizes),
        address=args.ray_address,
    )


def _llm_cpus(args: argparse.Namespace) -> float:
    """Of a language model, where it is not said. On this machine, without a GPU, it gets all cores: it has most of the
    work, and Ray only counts them, and takes none away from the encoders."""
    if args.llm_gpus or args.ray_address != "local":
        return 1.0
    return max((os.cpu_count() or 1) / int(args.llms[1]), 1.0)
