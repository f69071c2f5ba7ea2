"""The checkpoints that these tests run."""

import pytest

from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import HEADS, Whole


@pytest.fixture(scope="session")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    folder = tmp_path_factory.mktemp("checkpoints")
    # With this seed, answers are as long as the tests ask.
    return {name: Whole(tiny_checkpoint(folder / name, name, seed=4, language=HEADS)) for name in ("llama", "qwen2")}


@pytest.fixture
def llama(wholes: dict[str, Whole]) -> Whole:
    return wholes["llama"]
