"""One service per checkpoint serves most tests of this folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import Caller, Whole, running

SHIPPED = Path(__file__).parents[3] / "models" / "visionsplit-mini"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """The whole models, by name."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny = {name: Whole(tiny_checkpoint(folder / name, name)) for name in ("llama", "mistral", "qwen2")}
    return {**tiny, "shipped": Whole(SHIPPED)}


@pytest.fixture(params=["llama", "mistral", "qwen2", "shipped"])
def whole(request: pytest.FixtureRequest, wholes: dict[str, Whole]) -> Whole:
    return wholes[request.param]


@pytest.fixture
async def caller(whole: Whole) -> AsyncIterator[Caller]:
    """A caller of a service of each checkpoint."""
    async with running(whole) as (_, caller):
        yield caller


@pytest.fixture
def llama(wholes: dict[str, Whole]) -> Whole:
    return wholes["llama"]


@pytest.fixture
async def llama_caller(llama: Whole) -> AsyncIterator[Caller]:
    async with running(llama) as (_, caller):
        yield caller
