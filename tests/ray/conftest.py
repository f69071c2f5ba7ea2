"""The checkpoint that these tests run."""

import pytest

from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import HEADS, Whole


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    # With this seed, answers are as long as the tests ask.
    return Whole(tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "llama", "llama", seed=4, language=HEADS))
