"""What keeps a service from starting where vLLM is installed is reported in one line."""

from collections.abc import Callable

from tests.integration.llm.support import Whole
from tests.integration.llm.test_startup import refused

__all__ = ["refused"]


def test_the_default_engine_needs_a_newer_transformers_library(llama: Whole, refused: Callable[..., str]) -> None:
    assert "--engine transformers needs transformers 5.23" in refused("--model", str(llama.path))


def test_an_unknown_argument_of_vllm(llama: Whole, refused: Callable[..., str]) -> None:
    options = ("--engine", "vllm", "--vllm-options", '{"enforce_eagre": true}')
    line = refused("--model", str(llama.path), *options)
    assert "no argument 'enforce_eagre'; did you mean enforce_eager?" in line
