"""Runs a batch job's rows through the job's pools on one Ray cluster for all tests here, as starting takes seconds."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from visionsplit_batch.rows import Answers, Failure, Slice, Tokens
from visionsplit_batch.runners import Runner, Work
from visionsplit_client import IncompatibleServicesError, InvalidCompressionError

from encoder_service.config import CacheLimits, EncoderConfig
from llm_service.config import LlmConfig
from tests.integration.batch.rows import KEEP_HALF, SHORT, Files, by_id, pictures, plain_loop, slices
from tests.integration.system import running_system

PROMPT = "What is {title}?"
CAPTION = Work("caption", (PROMPT,), compression=KEEP_HALF, sampling=SHORT)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        configure_logging=False,
        object_store_memory=256 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint(random_checkpoints: dict[str, Path]) -> Path:
    return random_checkpoints["llama"]


def runner_of(source: Files, work: Work, checkpoint: Path, **pools) -> Runner:
    from visionsplit_batch.runners.pools import Pools
    from visionsplit_batch.runners.ray_data import RayDataRunner

    encoder = EncoderConfig(model=str(checkpoint), cache=CacheLimits(memory_bytes=0))
    llm = LlmConfig(model=str(checkpoint))
    sizes = {"encoder_cpus": 0.5, "llm_cpus": 0.5, "unit_rows": 2}
    return RayDataRunner(source, work, encoder=encoder, llm=llm, pools=Pools(**(sizes | pools)))


def workers(stage: str) -> list[psutil.Process]:
    """The processes of a pool; Ray names them after what they run."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if f"MapWorker(MapBatches({stage}))" in " ".join(one.cmdline())]


async def test_captions_are_those_of_a_plain_loop(cluster, checkpoint: Path, tmp_path: Path):
    """Also of rows that were in a process which is killed. A picture that is none fails alone, and so does a row that
    brings down the process of any encoder that has it."""
    whole = Files(pictures(tmp_path / "whole", 10))
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, whole, PROMPT)
    folder = pictures(tmp_path / "some", 10)
    (folder / "picture003.png").write_bytes(b"no picture at all")
    source = Files(folder, repeat=30, deadly="3/picture005.png")
    pulled, most, outcomes = 0, 0, []

    def counted() -> Iterator[Slice]:
        nonlocal pulled
        for one in slices(source, rows=6):
            pulled += len(one.entries)
            yield one

    with runner_of(source, CAPTION, checkpoint, encoders=2) as runner:
        assert runner.identity().llm_model == "llama"
        for outcome in runner.run(counted()):
            outcomes.append(outcome)
            most = max(most, pulled - len(outcomes))
            if len(outcomes) == 100:
                uses = runner.stages()
            if len(outcomes) == 150:
                os.kill(workers("Asking")[0].pid, signal.SIGKILL)
    found = by_id(outcomes)
    assert len(found) == 300
    for id, outcome in found.items():
        name = f"0/{Path(id).name}"
        if id == source.deadly:
            assert isinstance(outcome.result, Failure)
            assert (outcome.result.error, outcome.result.stage) == ("LostWorkerError", "encode")
        elif "picture003" in id:
            assert isinstance(outcome.result, Failure)
            assert (outcome.result.error, outcome.result.stage) == ("InvalidImageError", "encode")
        else:
            assert isinstance(outcome.result, Answers), outcome.result
            assert outcome.result.generations[0].text == expected[name]
    indices = sorted((outcome.index, outcome.part) for outcome in outcomes)
    assert indices == [(index, index // 12) for index in range(300)]
    assert most < 250
    assert [use.name for use in uses] == ["read", "encode", "ask"]
    assert sum(use.rows for use in uses) > 0
    assert uses[2].busy > 0


async def test_encoding_and_asking_apart(cluster, checkpoint: Path, tmp_path: Path):
    source = Files(pictures(tmp_path / "pictures", 5))
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, source, "What?")
    stored = Files(tmp_path / "tokens")
    stored.folder.mkdir()
    with runner_of(source, Work("encode", compression=KEEP_HALF), checkpoint) as runner:
        for outcome in runner.run(slices(source)):
            assert isinstance(outcome.result, Tokens)
            outcome.result.images[0].save(stored.folder / f"{Path(outcome.id).stem}.safetensors")
    # Few rows to a dataset, so that another has to follow.
    with runner_of(stored, Work("ask", ("What?",), sampling=SHORT), checkpoint, rows_per_dataset=4) as runner:
        answers = [outcome.result for outcome in runner.run(slices(stored))]
    assert sorted(one.generations[0].text for one in answers if isinstance(one, Answers)) == sorted(expected.values())


def test_what_ends_the_job_is_raised(cluster, random_checkpoints: dict[str, Path], tmp_path: Path):
    """Tokens of another encoder than the language model knows are nothing that one row has done wrong."""
    source, stored = Files(pictures(tmp_path / "pictures", 2)), Files(tmp_path / "tokens")
    stored.folder.mkdir()
    with runner_of(source, Work("encode", compression=KEEP_HALF), random_checkpoints["qwen2"]) as runner:
        for outcome in runner.run(slices(source)):
            outcome.result.images[0].save(stored.folder / f"{Path(outcome.id).stem}.safetensors")
    with runner_of(stored, Work("ask", ("What?",)), random_checkpoints["llama"]) as runner:
        outcomes = runner.run(slices(replace(stored, repeat=50)))
        with pytest.raises(IncompatibleServicesError):
            list(outcomes)


def test_a_compression_that_needs_what_is_not_there_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(InvalidCompressionError, match="text tower"):
        runner_of(Files(tmp_path), replace(CAPTION, compression=replace(KEEP_HALF, method="cdpruner")), checkpoint)
    with pytest.raises(InvalidCompressionError, match="no-such"):
        runner_of(Files(tmp_path), replace(CAPTION, compression=replace(KEEP_HALF, method="no-such")), checkpoint)
