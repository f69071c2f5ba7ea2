"""What only vLLM does; `make test-vllm` runs this folder, and with vLLM what both engines must do."""

import pytest
import torch

from llm_service.config import EngineKind
from tests.integration.llm.conftest import llama, services, wholes
from tests.integration.llm.support import ENGINE

__all__ = ["llama", "services", "wholes"]


@pytest.fixture(scope="session", autouse=True)
def _vllm():
    assert ENGINE is EngineKind.VLLM, "these tests are run by make test-vllm"
    torch.set_num_threads(1)
