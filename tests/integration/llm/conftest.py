"""One service per checkpoint serves most tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import HEADS, Caller, Services, Whole, running

SHIPPED = Path(__file__).parents[3] / "models" / "visionsplit-mini"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """The whole models, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    # With this seed, answers are as long as the tests ask.
    tiny = {
        name: Whole(tiny_checkpoint(folder / name, name, seed=4, language=HEADS))
        for name in ("llama", "mistral", "qwen2")
    }
    return {**tiny, "shipped": Whole(SHIPPED)}


# The session's scope makes pytest run all tests of one model before those of the next.
@pytest.fixture(params=["llama", "mistral", "qwen2", "shipped"], scope="session")
def whole(request: pytest.FixtureRequest, wholes: dict[str, Whole]) -> Whole:
    return wholes[request.param]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def services() -> AsyncIterator[Services]:
    """Services for the tests of modules whose event loop is the session's."""
    async with Services() as services:
        yield services


@pytest_asyncio.fixture(loop_scope="session")
async def caller(whole: Whole, services: Services) -> Caller:
    """A caller of a service of each checkpoint, for the same modules."""
    return (await services.get(whole))[1]


@pytest_asyncio.fixture(loop_scope="session")
async def shared_caller(llama: Whole, services: Services) -> Caller:
    """A caller of a service of one checkpoint, for the same modules."""
    return (await services.get(llama))[1]


@pytest.fixture
def llama(wholes: dict[str, Whole]) -> Whole:
    return wholes["llama"]


@pytest.fixture
async def llama_caller(llama: Whole) -> AsyncIterator[Caller]:
    async with running(llama) as (_, caller):
        yield caller
