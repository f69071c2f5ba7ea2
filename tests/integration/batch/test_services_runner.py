"""Runs a batch job's rows through running services."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from visionsplit_batch.rows.rows import Answers, Failure, Outcome, Question, Slice, Tokens
from visionsplit_batch.runners import Runner, Work
from visionsplit_batch.runners.services import ServicesRunner
from visionsplit_client import (
    IncompatibleServicesError,
    InvalidSamplingError,
    Retries,
    Sampling,
    UnavailableError,
)

from tests.integration.batch.rows import KEEP_HALF, SHORT, Files, by_id, plain_loop, slices, write_images
from tests.integration.system import System, running_system

PROMPT = "What is {title}?"
CAPTION = Work("caption", (PROMPT,), compression=KEEP_HALF, sampling=SHORT)


@pytest.fixture(scope="module")
def checkpoint(random_checkpoints: dict[str, Path]) -> Path:
    return random_checkpoints["llama"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(write_images(tmp_path_factory.mktemp("images"), 10))


def run(runner: ServicesRunner, one: Files) -> list[Outcome]:
    with runner:
        return list(runner.run(slices(one)))


def texts(outcomes: list[Outcome]) -> dict[str, tuple[str, ...]]:
    found = {}
    for id, outcome in by_id(outcomes).items():
        assert isinstance(outcome.result, Answers), outcome.result
        found[id] = tuple(generation.text for generation in outcome.result.generations)
    return found


def runner_of(system: System, source: Files, work: Work, *, llm: bool = False, **options) -> ServicesRunner:
    encoders = () if work.kind == "ask" else (system.encoder_address,)
    return ServicesRunner(source, work, encoders, system.llm_address if llm else None, **options)


async def test_captions_are_those_of_a_plain_loop(checkpoint: Path, source: Files):
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, source, PROMPT)
        runner: Runner = runner_of(system, source, CAPTION)
        outcomes = await asyncio.to_thread(run, runner, source)
    assert texts(outcomes) == {id: (text,) for id, text in expected.items()}
    assert len(set(expected.values())) > 5
    first = by_id(outcomes)["0/image000.png"]
    assert (first.part, first.index) == (0, 0)
    assert isinstance(first.result, Answers)
    assert first.result.questions == (Question("What is image000?"),)
    assert first.result.fields == {"title": "image000"}


async def test_several_questions_share_one_encoding(checkpoint: Path, source: Files):
    """With the LLM service's address each image is encoded once; without it the answers are the same."""
    several = replace(source, questions=(Question("Who?"), Question("Where?", sampling=Sampling(max_new_tokens=3))))
    async with running_system(checkpoint) as system:
        once = await asyncio.to_thread(run, runner_of(system, several, CAPTION, llm=True), several)
        each = await asyncio.to_thread(run, runner_of(system, several, CAPTION), several)
        plain = await system.client.generate(
            source.folder / "image003.png", "Where?", compression=KEEP_HALF, sampling=Sampling(max_new_tokens=3)
        )
    assert texts(once) == texts(each)
    for outcome in once:
        first, second = outcome.result.generations
        assert first.images == second.images  # their times too
    assert texts(once)["0/image003.png"][1] == plain.text


async def test_encoding_and_asking_apart(checkpoint: Path, source: Files, tmp_path: Path):
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, source, "What?")
        encoding = Work("encode", compression=KEEP_HALF)
        for outcome in await asyncio.to_thread(run, runner_of(system, source, encoding), source):
            assert isinstance(outcome.result, Tokens)
            outcome.result.images[0].save(tmp_path / f"{Path(outcome.id).stem}.safetensors")
        stored = Files(tmp_path)
        asking = Work("ask", ("What?",), sampling=SHORT)
        outcomes = await asyncio.to_thread(run, runner_of(system, stored, asking, llm=True), stored)
    assert sorted(texts(outcomes).values()) == sorted((text,) for text in expected.values())


async def test_a_row_that_is_wrong_fails_alone(checkpoint: Path, source: Files, tmp_path: Path):
    folder = write_images(tmp_path / "mixed", 6)
    (folder / "image001.png").write_bytes(b"no image at all")
    (folder / "image002.png").unlink()
    (folder / "image002.png").symlink_to(tmp_path / "gone.png")
    mixed = Files(folder, titles={"image003": None})
    async with running_system(checkpoint) as system:
        outcomes = by_id(await asyncio.to_thread(run, runner_of(system, mixed, CAPTION), mixed))
    failures = {id: one.result for id, one in outcomes.items() if isinstance(one.result, Failure)}
    assert len(outcomes) == 6
    assert {id: (one.error, one.stage) for id, one in failures.items()} == {
        "0/image001.png": ("InvalidImageError", "encode"),
        "0/image002.png": ("FileNotFoundError", "read"),
        "0/image003.png": ("TemplateError", "read"),
    }


async def test_what_the_language_model_refuses_fails_the_rows(checkpoint: Path, source: Files):
    work = replace(CAPTION, sampling=Sampling(temperature=-1.0))
    async with running_system(checkpoint) as system:
        outcomes = await asyncio.to_thread(run, runner_of(system, source, work), source)
    results = [outcome.result for outcome in outcomes]
    assert len(results) == 10
    assert all(isinstance(one, Failure) and one.error == InvalidSamplingError.__name__ for one in results)


async def test_a_full_service_is_waited_for(checkpoint: Path, tmp_path: Path):
    """Also where the client's own retries would not."""
    source = Files(write_images(tmp_path, 3))
    async with running_system(checkpoint, encoder={"max_calls": 1}) as system:
        runner = runner_of(system, source, CAPTION, retries=Retries(attempts=1))
        outcomes = await asyncio.to_thread(run, runner, source)
    assert len(texts(outcomes)) == 3


async def test_slices_are_pulled_as_there_is_room(checkpoint: Path, source: Files):
    many, pulled, most = replace(source, repeat=30), 0, 0

    def counted() -> Iterator[Slice]:
        nonlocal pulled
        for one in slices(many):
            pulled += len(one.entries)
            yield one

    def work(runner: ServicesRunner) -> int:
        nonlocal most
        ended = 0
        with runner:
            for _ in runner.run(counted()):
                ended += 1
                most = max(most, pulled - ended)
                if ended == 60:
                    break
        return ended

    async with running_system(checkpoint) as system:
        assert await asyncio.to_thread(work, runner_of(system, source, CAPTION, in_flight=4)) == 60
    assert most <= 8 + 4  # twice the rows in flight, and a slice begun


async def test_services_that_go_away_end_the_run(checkpoint: Path, source: Files):
    many = replace(source, repeat=50)
    loop = asyncio.get_running_loop()

    def work(system: System) -> list[Outcome]:
        ended: list[Outcome] = []
        runner = runner_of(system, many, CAPTION, in_flight=4, retries=Retries(attempts=2, initial_delay=0.01))
        with runner:
            outcomes = runner.run(slices(many))
            ended += itertools.islice(outcomes, 8)
            asyncio.run_coroutine_threadsafe(system.encoder.stop(None), loop).result()
            with pytest.raises(UnavailableError):
                ended.extend(outcomes)
        return ended

    async with running_system(checkpoint) as system:
        ended = await asyncio.to_thread(work, system)
    assert 8 <= len(by_id(ended)) < 500
    assert not [one for one in ended if isinstance(one.result, Failure)]


async def test_what_the_services_are_is_known_before_the_first_row(random_checkpoints: dict[str, Path], source: Files):
    async with (
        running_system(random_checkpoints["llama"]) as system,
        running_system(random_checkpoints["qwen2"]) as other,
    ):

        def identities():
            with runner_of(system, source, replace(CAPTION, compression=None), llm=True) as runner:
                found = runner.identity()
            mixed = ServicesRunner(source, CAPTION, system.encoder_address, other.llm_address)
            with pytest.raises(IncompatibleServicesError), mixed:
                pass
            gone = ServicesRunner(source, CAPTION, "127.0.0.1:1", retries=Retries(attempts=1))
            with pytest.raises(UnavailableError), gone:
                pass
            return found

        found = await asyncio.to_thread(identities)
        info = await system.client.encoder_info()
    assert (found.encoder_model, found.llm_model) == ("llama", "llama")
    assert found.encoder_fingerprint == info.format.encoder_fingerprint
    assert (found.compression, found.data_type) == (info.default_compression, "float32")


async def test_stages_say_where_time_and_rows_are(checkpoint: Path, source: Files):
    def work(runner: ServicesRunner):
        with runner:
            runner.stages()
            outcomes = runner.run(slices(source))
            next(outcomes)
            during = runner.stages()
            rest = len(list(outcomes))
            return during, rest, runner.stages()

    async with running_system(checkpoint) as system:
        during, rest, after = await asyncio.to_thread(work, runner_of(system, source, CAPTION, in_flight=2))
    assert rest == 9
    assert [use.name for use in during] == ["read", "encode", "ask"]
    assert sum(use.rows for use in during) > 0
    assert sum(use.rows for use in after) == 0
    assert all(0 <= use.busy <= 1 for use in (*during, *after))
    assert after[2].busy > 0
