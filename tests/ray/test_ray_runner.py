"""A batch job's rows through services that it starts on a Ray cluster: one for all tests here, as it takes seconds."""

import asyncio
import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
import pytest
from PIL import Image
from visionsplit.images import ImageHeader, ImageLimits
from visionsplit_batch import Ask, Caption, Encode
from visionsplit_batch.rows.rows import Answers, Failure, Slice, Tokens
from visionsplit_batch.runners import Runner, Work
from visionsplit_client import (
    Client,
    Compression,
    HealthStatus,
    IncompatibleServicesError,
    InternalError,
    InvalidCompressionError,
    InvalidImageError,
)

from benchmarks.load.nodes import replicas_of
from encoder_service.config import CacheLimits, EncoderConfig
from encoder_service.pipeline import preparation
from llm_service.config import LlmConfig
from tests.conftest import ROOT
from tests.integration.batch.rows import KEEP_HALF, SHORT, Files, by_id, plain_loop, slices, write_images
from tests.integration.system import System, running_system
from tests.noise import noise_image

pytestmark = pytest.mark.timeout(900)  # a dozen processes import PyTorch and Ray here, on two cores
DEADLY = b"deadly image"
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


class DeadlyEncoder(EncoderConfig):
    """An encoder whose process is killed by an image that holds `DEADLY`, as a fault in a library of C would do."""

    def __setstate__(self, state: dict[str, Any]) -> None:  # only in the process that gets the configuration
        self.__dict__.update(state)
        names = vars(preparation)
        plain = names["read_header"]

        def read_header(data: bytes, limits: ImageLimits) -> ImageHeader:
            if DEADLY in data:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(data, limits)

        names["read_header"] = read_header


def runner_of(source: Files, work: Work, checkpoint: Path, encoder: type = EncoderConfig, **pools) -> Runner:
    from visionsplit_batch.runners.pools import Pools
    from visionsplit_batch.runners.ray_runner import RayRunner

    sizes = {"encoder_cpus": 0.5, "llm_cpus": 0.5}
    models = {"encoder": encoder(model=str(checkpoint)), "llm": LlmConfig(model=str(checkpoint))}
    return RayRunner(source, work, **models, pools=Pools(**(sizes | pools)))


async def test_captions_are_those_of_a_plain_loop(cluster, checkpoint: Path, tmp_path: Path):
    """Also of rows that were in a process which is killed. A file that is not an image fails alone, and so does a row
    that brings down the process of any encoder, or of any reader, that has it."""
    whole = Files(write_images(tmp_path / "whole", 10))
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, whole, PROMPT)
    folder = write_images(tmp_path / "some", 10)
    (folder / "image003.png").write_bytes(b"no image at all")
    shutil.copyfile(folder / "image004.png", folder / "image010.png")
    with (folder / "image010.png").open("ab") as file:
        file.write(DEADLY)
    source = Files(folder, repeat=20, only_first="image010.png", deadly="3/image005.png")
    pulled, most, outcomes = 0, 0, []

    def counted() -> Iterator[Slice]:
        nonlocal pulled
        for one in slices(source, rows=6):
            pulled += len(one.entries)
            yield one

    with runner_of(source, CAPTION, checkpoint, DeadlyEncoder, encoders=2) as runner:
        assert runner.identity().llm_model == "llama"
        for outcome in runner.run(counted()):
            outcomes.append(outcome)
            most = max(most, pulled - len(outcomes))
            if len(outcomes) == 100:
                uses = runner.stages()
                replicas_of(psutil.Process())[0].kill()
    found = by_id(outcomes)
    assert len(found) == 201
    for id, outcome in found.items():
        name = f"0/{Path(id).name}"
        if id in (source.deadly, "0/image010.png"):
            assert isinstance(outcome.result, Failure)
            stage = "read" if id == source.deadly else "encode"
            assert (outcome.result.error, outcome.result.stage) == ("LostWorkerError", stage)
        elif "image003" in id:
            assert isinstance(outcome.result, Failure)
            assert (outcome.result.error, outcome.result.stage) == ("InvalidImageError", "encode")
        else:
            assert isinstance(outcome.result, Answers), outcome.result
            assert outcome.result.generations[0].text == expected[name]
    indices = sorted((outcome.index, outcome.part) for outcome in outcomes)
    assert indices == [(index, index // 12) for index in range(201)]
    assert most < 250
    assert [use.name for use in uses] == ["read", "encode", "ask"]
    assert sum(use.rows for use in uses) > 0
    assert uses[2].busy > 0


async def test_encoding_and_asking_apart(cluster, random_checkpoints: dict[str, Path], tmp_path: Path):
    """Tokens of another encoder than the language model knows are nothing that one row has done wrong: the job ends."""
    checkpoint = random_checkpoints["llama"]
    source = Files(write_images(tmp_path / "images", 5))
    async with running_system(checkpoint) as system:
        expected = await plain_loop(system.client, source, "What?")
    stored = Files(tmp_path / "tokens")
    stored.folder.mkdir()
    with runner_of(source, Work("encode", compression=KEEP_HALF), checkpoint) as runner:
        for outcome in runner.run(slices(source)):
            assert isinstance(outcome.result, Tokens)
            outcome.result.images[0].save(stored.folder / f"{Path(outcome.id).stem}.safetensors")
    with runner_of(stored, Work("ask", ("What?",), sampling=SHORT), checkpoint) as runner:
        answers = [outcome.result for outcome in runner.run(slices(stored))]
    assert sorted(one.generations[0].text for one in answers if isinstance(one, Answers)) == sorted(expected.values())
    with runner_of(stored, Work("ask", ("What?",)), random_checkpoints["qwen2"]) as runner:
        outcomes = runner.run(slices(replace(stored, repeat=50)))
        with pytest.raises(IncompatibleServicesError):
            list(outcomes)
    assert logging.getLogger("grpc._cython.cygrpc").level == logging.NOTSET  # the process's, silenced by a job


def test_a_compression_that_needs_what_is_not_there_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(InvalidCompressionError, match="text tower"):
        runner_of(Files(tmp_path), replace(CAPTION, compression=replace(KEEP_HALF, method="cdpruner")), checkpoint)
    with pytest.raises(InvalidCompressionError, match="no-such"):
        runner_of(Files(tmp_path), replace(CAPTION, compression=replace(KEEP_HALF, method="no-such")), checkpoint)


async def test_the_documented_ray_data_pipeline_runs(cluster, checkpoint: Path, tmp_path: Path):
    text = (ROOT / "docs" / "batch.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    write_images(tmp_path / "photos", 5)
    async with running_system(checkpoint) as system:
        for old, new in (
            ("127.0.0.1:50051", system.encoder_address),
            ("photos/", str(tmp_path / "photos")),
            ("captions/", str(tmp_path / "captions")),
        ):
            assert old in example
            example = example.replace(old, new)
        await asyncio.to_thread(exec, example, {"__name__": "__main__"})
        first = await system.client.generate(
            tmp_path / "photos" / "image000.png", "Describe the image.", compression=Compression("globalcom2", 0.25)
        )
    rows = pyarrow.parquet.read_table(tmp_path / "captions").sort_by("path").to_pylist()
    assert [Path(row["path"]).name for row in rows] == [f"image{number:03}.png" for number in range(5)]
    assert rows[0]["text"] == first.text
    assert rows[0]["tokens_after"] == first.usage.vision_tokens < rows[0]["tokens_before"]
    assert [row["error"] for row in rows] == [None] * 5


async def test_images_of_every_form_are_captioned_and_a_row_that_fails_says_why(
    cluster, checkpoint: Path, tmp_path: Path
):
    """In one batch without Ray Data; and encoded and asked about by Ray Data, where blocks of failures are merged."""
    import ray

    path = write_images(tmp_path, 1) / "image000.png"
    pixels = np.asarray(Image.open(path))
    data = path.read_bytes()
    forms = [str(path), data, {"bytes": data, "path": None}, pixels, pixels.astype(np.float32), b"none", None]
    rows = [{"image": form, "ask": f"What {number}?"} for number, form in enumerate(forms)]

    def work(system: System) -> None:
        caption = Caption(system.encoder_address, prompt_column="ask", compression=KEEP_HALF, sampling=SHORT)
        with Client(system.encoder_address) as client:
            expected = [client.generate(path, row["ask"], compression=KEEP_HALF, sampling=SHORT).text for row in rows]
        found = caption({name: [row[name] for row in rows] for name in rows[0]})
        assert found["text"] == expected[:4] + [None] * 3
        assert [error and error.partition(":")[0] for error in found["error"]] == [None] * 4 + ["InvalidImageError"] * 3
        with pytest.raises(InvalidImageError, match="float32"):
            Caption(system.encoder_address, raise_errors=True)({"image": [forms[4]]})

        stored = ray.data.from_items([row for row in rows if not isinstance(row["image"], np.ndarray | str | dict)])
        encode = {"encoders": system.encoder_address, "compression": KEEP_HALF}
        ask = Ask(system.llm_address, prompt="Not {ask}", prompt_column="ask", sampling=SHORT)
        arrow = {"batch_format": "pyarrow", "num_cpus": 0.1}
        actors = ray.data.ActorPoolStrategy(size=1)
        tokens = stored.map_batches(Encode, fn_constructor_kwargs=encode, batch_size=1, compute=actors, **arrow)
        answers = tokens.rename_columns({"error": "first"}).map_batches(ask, batch_size=2, **arrow).take_all()
        assert [row["text"] for row in answers if row["text"]] == [expected[1]]
        reasons = sorted((row["first"] or "").partition(":")[0] for row in answers)
        assert reasons == ["", "InvalidImageError", "InvalidImageError"]
        assert sum("InvalidTokensError" in (row["error"] or "") for row in answers) == 2

    async with running_system(checkpoint) as system:
        await asyncio.to_thread(work, system)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class UnreadableEncoder(EncoderConfig):
    """An encoder's settings that its machine cannot read, as where another version of this package is installed."""

    file: Path  # whose presence makes them readable

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self.file.exists():
            raise ImportError("no module named encoder_service.elsewhere")


def test_an_encoder_whose_settings_cannot_be_read_is_reported_at_once(cluster, checkpoint: Path, tmp_path: Path):
    """When that happens later, the pool goes on trying."""
    from visionsplit_ray.encoder_pool import EncoderPool, PoolConfig

    config = UnreadableEncoder(str(checkpoint), device="cpu")
    object.__setattr__(config, "file", tmp_path / "readable")
    pool = EncoderPool(config, PoolConfig(num_cpus=0.5))
    try:
        with pytest.raises(
            InternalError, match=r"an encoder cannot start: .*no module named encoder_service\.elsewhere"
        ):
            pool.start(600)
    finally:
        pool.stop(0.0)

    config.file.touch()
    pool = EncoderPool(config, PoolConfig(num_cpus=0.5))
    pool.start(240)
    try:
        config.file.unlink()
        children = psutil.Process().children(recursive=True)
        (encoder,) = [child for child in children if "EncoderActor" in " ".join(child.cmdline())]
        encoder.kill()
        wait_until(lambda: not pool.addresses)
        time.sleep(10)  # in which Ray gives the actor up
        config.file.touch()
        wait_until(lambda: bool(pool.addresses))
    finally:
        pool.stop(0.0)


def test_a_pool_of_encoders_grows_and_shrinks_with_its_load(cluster, checkpoint: Path):
    from visionsplit_ray.encoder_pool import EncoderPool, PoolConfig
    from visionsplit_ray.scaling import ScaleRule

    rule = ScaleRule(grow_tiles=0.5, grow_seconds=2, shrink_tiles=0.5, shrink_seconds=2)
    config = EncoderConfig(str(checkpoint), device="cpu", cache=CacheLimits(memory_bytes=0))
    pool = EncoderPool(config, PoolConfig(1, 2, num_cpus=0.5, scale=rule))
    image, enough = noise_image(800, 800), threading.Event()

    def keep_busy(client: Client) -> None:
        while not enough.is_set():
            client.encode(image)

    def wait_for(number: int) -> tuple[str, ...]:
        wait_until(lambda: len(pool.addresses) == number)
        return pool.addresses

    pool.start(120)
    try:
        first = pool.addresses
        with Client(first) as client, ThreadPoolExecutor(2) as threads:
            callers = [threads.submit(keep_busy, client) for _ in range(2)]
            try:
                both = wait_for(2)
            finally:
                enough.set()  # the executor waits for its callers
            for caller in callers:
                caller.result()
        with Client(both) as client:
            assert set(client.health().values()) == {HealthStatus.SERVING}
        assert wait_for(1) == first
    finally:
        pool.stop(0.0)
