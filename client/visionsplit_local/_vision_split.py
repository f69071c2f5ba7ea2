"""The SDK's blocking client, with both services in this process behind it."""

from collections.abc import Iterable
from typing import Literal, overload

from visionsplit_client import (
    Client,
    Generation,
    Limits,
    Retries,
    Timeouts,
    VisionSplitError,
)

from encoder_service.config import EncoderConfig
from llm_service.config import EngineConfig, LlmConfig
from llm_service.config import Limits as LlmLimits
from visionsplit_local._many import Request, answer_all
from visionsplit_local._services import ENCODER, LLM, Services

# Calls that the services take at one time. More of the user's own threads than this have to wait.
_MAX_CALLS = 256
_NO_TIMEOUT, _LIMITS = Timeouts(call=None), Limits()
_RETRIES = Retries(attempts=10, overloaded=True)


class VisionSplit(Client):
    """A model in this process. Thread-safe. Close it, or use it as a context manager.

    It has the calls of `visionsplit_client.Client` with the same arguments, results and errors: `generate`, `stream`,
    `encode`, `encode_stream`, `generate_from_tokens`, `stream_from_tokens`, `encoder_info` and `llm_info`. Further,
    `generate_many` answers many requests together. What runs behind the calls is the services' own code, so the token
    ids are those that the services give.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        text_tower: str | None = None,
        text_tower_revision: str | None = None,
        kv_tokens: int | None = None,
        memory_fraction: float = EngineConfig.memory_fraction,
        timeout: Timeouts | float | None = _NO_TIMEOUT,
        limits: Limits = _LIMITS,
    ) -> None:
        """Load the model. Takes seconds to minutes.

        Args:
            model: a checkpoint of a family in docs/families.md, as a folder or a Hugging Face hub id.
            revision: of a hub id; None takes the hub's main revision.
            device: "cpu", "cuda" or "cuda:N"; None takes the first GPU, or the CPU where there is none.
            dtype: "float32", "float16" or "bfloat16"; None takes float32 on the CPU and the checkpoint's own on a GPU.
            text_tower: the CLIP checkpoint that the vision tower comes from, for compression methods that read the
                prompt; None refuses such methods.
            text_tower_revision: of that hub id.
            kv_tokens: tokens that the KV cache holds; None takes 16384 on the CPU and `memory_fraction` on a GPU.
            memory_fraction: the share of the GPU memory left beside the weights that the KV cache takes, in (0, 1].
            timeout: seconds for each call that gives none itself, or `Timeouts`; None waits for ever.
            limits: what is not read into memory.

        Raises:
            CheckpointError: the checkpoint cannot be read or used.
            ConfigError: a setting is out of its range, or this machine or the checkpoint cannot honour it.
        """
        # One caller is all there is, so none of the services' room is kept free for others.
        encoder = EncoderConfig(
            model,
            revision=revision,
            text_tower=text_tower,
            text_tower_revision=text_tower_revision,
            device=device,
            dtype=dtype,
            max_calls=_MAX_CALLS,
            caller_share=1.0,
        )
        engine = EngineConfig(kv_tokens=kv_tokens, memory_fraction=memory_fraction, caller_share=1.0)
        llm = LlmConfig(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            engine=engine,
            limits=LlmLimits(max_calls=_MAX_CALLS, caller_share=1.0),
        )
        self._services = Services(encoder, llm)
        super().__init__(ENCODER, llm=LLM, timeout=timeout, retries=_RETRIES, limits=limits, transport=self._services)

    @overload
    def generate_many(
        self, requests: Iterable[Request], *, return_errors: Literal[False] = False
    ) -> list[Generation]: ...

    @overload
    def generate_many(
        self, requests: Iterable[Request], *, return_errors: Literal[True]
    ) -> list[Generation | VisionSplitError | OSError]: ...

    def generate_many(
        self, requests: Iterable[Request], *, return_errors: bool = False
    ) -> list[Generation] | list[Generation | VisionSplitError | OSError]:
        """Answer many requests, as many at one time as keep the device busy. The answers have the requests' order.

        Args:
            requests: read at once; their images, when their turn comes.
            return_errors: whether the error of a request that fails stands in its place. Otherwise the first error
                ends all requests, with the number of its request as a note.
        """
        return answer_all(self, list(requests), return_errors=return_errors)

    def close(self) -> None:
        """End calls that still run with CancelledError, and release the model."""
        super().close()
        self._services.close()
