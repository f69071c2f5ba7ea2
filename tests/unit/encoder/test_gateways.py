"""How an encoder handles an LLM service that answers only health checks, or cannot be called."""

import asyncio
import logging
from contextlib import asynccontextmanager

import pytest
from visionsplit.errors import InternalError
from visionsplit.security.client import ClientSecurity
from visionsplit.security.reloaded_files import CredentialsError

from encoder_service.llm.channel import LlmChannel
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoint, LlmEndpoints
from tests.unit.encoder.helpers import FakeLlm, running_llm


@asynccontextmanager
async def following(*fakes: FakeLlm):
    """The gateways of an encoder in front of stand-ins."""
    running = [running_llm(fake) for fake in fakes]
    addresses = [await one.__aenter__() for one in running]
    gateways = [LlmEndpoint(address, LlmClient(LlmChannel(address, ClientSecurity()))) for address in addresses]
    followed = LlmEndpoints(gateways)
    try:
        yield followed, gateways
    finally:
        await followed.close()
        for one in running:
            await one.__aexit__(None, None, None)


async def test_a_call_that_cannot_begin_is_not_in_flight():
    gateway = LlmEndpoint("127.0.0.1:1", LlmClient(LlmChannel("127.0.0.1:1", ClientSecurity())))

    def begin(client):
        raise CredentialsError("the certificate cannot be read")

    with pytest.raises(CredentialsError), gateway.call(begin):
        pass
    assert gateway.in_flight == 0
    await gateway.client.close()


async def test_a_service_that_does_not_tell_its_checkpoint_is_passed_over_and_found_again(caplog):
    """The log has a line for each change, not for each look."""
    caplog.set_level(logging.INFO, "encoder_service")
    silent, good = FakeLlm(), FakeLlm()
    silent.info_error = InternalError("no information")
    async with following(silent, good) as (followed, (first, second)):
        assert {await followed.pick() for _ in range(4)} == {second}
        await asyncio.sleep(1.2)  # two looks more
        assert caplog.text.count(first.address) == 1
        assert "no information" in caplog.text
        silent.info_error = None
        async with asyncio.timeout(2):
            while not first.ready:  # noqa: ASYNC110 - another task's attribute
                await asyncio.sleep(0.01)
        assert {await followed.pick() for _ in range(4)} == {first, second}
        first.failed()
        assert not first.ready
        assert {await followed.pick() for _ in range(4)} == {second}


async def test_where_none_is_ready_one_is_asked_all_the_same():
    draining, gone = FakeLlm(), FakeLlm()
    for fake in (draining, gone):
        fake.health.set(serving=False)
    async with following(draining, gone) as (followed, gateways):
        picked = await followed.pick()
        assert picked in gateways
        assert not picked.ready
