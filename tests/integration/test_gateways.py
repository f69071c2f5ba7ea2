"""Several LLM services behind one encoder: work is shared, a lost service is skipped and found again."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from visionsplit.command_line.settings import ConfigError
from visionsplit.errors import IncompatibleServicesError, OverloadedError, UnavailableError
from visionsplit_client import AsyncClient, HealthStatus, Prompt, Retries, Sampling

from benchmarks.load.system import free_port
from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from tests.checkpoints import tiny_checkpoint
from tests.noise import noise_image
from tests.unit.encoder.helpers import FakeLlm, running_llm

PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")
IMAGE = noise_image(112, 112)
SHORT = Sampling(max_new_tokens=4)


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


async def start_llm(model: Path, address: str) -> asyncio.subprocess.Process:
    """An LLM service in a separate process, once it serves."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llm_service", "--model", str(model), "--listen", address, "--device", "cpu",
        "--log-level", "ERROR",
    )  # fmt: skip
    async with asyncio.timeout(120), AsyncClient(address) as client:
        while (await client.health(timeout=1))[address] is not HealthStatus.SERVING:
            assert process.returncode is None, "the service ended"
            await asyncio.sleep(0.1)
    return process


@asynccontextmanager
async def encoder_of(model: Path, *addresses: str):
    server = EncoderServer(
        EncoderConfig(
            model=str(model),
            listen="127.0.0.1:0",
            llm=tuple(addresses),
            device="cpu",
        )
    )
    port = await server.start()
    try:
        yield AsyncClient(f"127.0.0.1:{port}", retries=Retries(attempts=1))
    finally:
        await server.stop(5)


@asynccontextmanager
async def two_fakes(model: Path, first: FakeLlm, second: FakeLlm):
    """A client of an encoder before two stand-ins, which say that they serve."""
    async with (
        running_llm(first) as one,
        running_llm(second) as two,
        encoder_of(model, one, two) as client,
        client,
    ):
        yield client


async def test_one_of_two_is_killed_and_comes_back(random_checkpoints: dict[str, Path], caplog) -> None:
    """No call fails: those to the lost one go to the other, whether they are noticed before or while it dies."""
    model, killed = random_checkpoints["llama"], free_address()
    caplog.set_level("INFO", "encoder_service")
    process = await start_llm(model, killed)
    stays = LlmServer(LlmConfig(model=str(model), listen="127.0.0.1:0", device="cpu"))
    try:
        async with encoder_of(model, killed, f"127.0.0.1:{await stays.start()}") as client, client:
            expected = (await client.generate(IMAGE, PROMPT, sampling=SHORT)).token_ids

            async def ask(calls: int) -> list[tuple[int, ...]]:
                answers = [client.generate(IMAGE, PROMPT, sampling=SHORT) for _ in range(calls)]
                return [answer.token_ids for answer in await asyncio.gather(*answers)]

            assert await ask(6) == [expected] * 6
            process.kill()
            assert await ask(6) == [expected] * 6
            await process.wait()
            assert await ask(3) == [expected] * 3
            process = await start_llm(model, killed)
            async with asyncio.timeout(30):
                back = f"LLM service {killed}: serving"
                while back not in caplog.text.partition(f"{killed}: not serving")[2]:  # noqa: ASYNC110 - a log
                    await asyncio.sleep(0.05)
            await stays.stop(0)  # so that an answer must come from the one that is back
            assert await ask(3) == [expected] * 3
            process.kill()
            await process.wait()
            with pytest.raises(UnavailableError, match="LLM service"):
                await client.generate(IMAGE, PROMPT, sampling=SHORT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await stays.stop(0)


async def test_different_checkpoints_are_refused(random_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """While both serve; the one that is left is asked."""
    model, other = random_checkpoints["llama"], tiny_checkpoint(tmp_path / "other", seed=9)
    servers = [LlmServer(LlmConfig(model=str(one), listen="127.0.0.1:0", device="cpu")) for one in (model, other)]
    addresses = [f"127.0.0.1:{await server.start()}" for server in servers]
    try:
        async with encoder_of(model, *addresses) as client, client:
            with pytest.raises(IncompatibleServicesError, match=r"different checkpoints: 'llama' .* and 'other'"):
                await client.generate(IMAGE, PROMPT, sampling=SHORT)
            await servers[1].stop(0)
            async with asyncio.timeout(20):
                while not await answers(client):  # noqa: ASYNC110 - asks again
                    await asyncio.sleep(0.05)
    finally:
        for server in servers:
            await server.stop(0)


async def answers(client: AsyncClient) -> bool:
    try:
        return bool((await client.generate(IMAGE, PROMPT, sampling=SHORT)).token_ids)
    except IncompatibleServicesError:
        return False


async def test_the_fewest_calls_in_flight_come_first(random_checkpoints: dict[str, Path]) -> None:
    one, two = FakeLlm(), FakeLlm()
    one.may_answer.clear()
    two.may_answer.clear()
    async with two_fakes(random_checkpoints["llama"], one, two) as client:
        calls = [asyncio.create_task(client.generate([], Prompt.raw("x"))) for _ in range(6)]
        async with asyncio.timeout(20):
            while len(one.received) + len(two.received) < 6:  # noqa: ASYNC110 - lists
                await asyncio.sleep(0.01)
        taken = len(one.received), len(two.received)
        one.may_answer.set()
        two.may_answer.set()
        await asyncio.gather(*calls)
    assert taken == (3, 3)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_an_upload_that_is_lost_is_sent_again_whole(random_checkpoints: dict[str, Path], after: int) -> None:
    """With however many of its messages sent, also where the second image was ready first; and not a second time."""
    lost, good = FakeLlm(UnavailableError("the replica was lost"), after), FakeLlm()
    async with two_fakes(random_checkpoints["llama"], lost, good) as client:
        for seed in range(4):
            good.received.clear()
            new = noise_image(112, 112, seed)  # while the other one is in the encoder's cache from the second call on
            answer = await client.generate([new, IMAGE], Prompt.raw("x"))
            assert answer.text == "one two"
            assert [image.index for image in answer.images] == [0, 1]  # each image's summary once
            assert len(good.parts("header")) == 1
            assert [image.image_index for image in good.parts("image")] == ([1, 0] if seed else [0, 1])
            assert {chunk.image_index for chunk in good.parts("tokens")} == {0, 1}
        good.error, good.error_after = UnavailableError("this one too"), 0
        with pytest.raises(UnavailableError):
            await client.generate([IMAGE], Prompt.raw("x"))


@pytest.mark.parametrize("after", [0, 2])
async def test_a_full_llm_service_is_passed_over(random_checkpoints: dict[str, Path], after: int) -> None:
    """The other one is asked before the call is refused, unless the request itself is what exceeds a limit."""
    full, good = FakeLlm(OverloadedError("all places are taken", 5.0), after), FakeLlm()
    async with two_fakes(random_checkpoints["llama"], full, good) as client:
        for seed in range(4):
            assert (await client.generate([noise_image(112, 112, seed)], Prompt.raw("x"))).text == "one two"
        assert full.received or not after  # it was asked, and is asked again after it refused
        asked = len(good.received)
        good.error, good.error_after = OverloadedError("here too", 7.0), 0
        with pytest.raises(OverloadedError) as caught:
            await client.generate([IMAGE], Prompt.raw("x"))
        assert caught.value.retry_after_seconds in (5.0, 7.0)
        for fake in (full, good):
            fake.error, fake.error_after = OverloadedError("the request alone is too large"), 1
        full.received.clear()
        good.received.clear()
        with pytest.raises(OverloadedError, match="too large"):
            await client.generate([IMAGE], Prompt.raw("x"))
        assert bool(full.received) is not bool(good.received)
        assert asked


@pytest.mark.parametrize("llm", ["", "a:1,", "a:1,,b:1", "a:1,a:1", "a:99999", "http://a:1"])
def test_addresses_that_are_none_are_refused(llm: str) -> None:
    with pytest.raises(ConfigError, match=r"^llm( is|:) "):
        EncoderConfig(model="m", llm=tuple(llm.split(",")))
