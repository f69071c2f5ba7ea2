"""Tokenises prompts on threads, with callers taking turns."""

import asyncio
from collections.abc import Sequence
from functools import partial

from visionsplit.grid import TileGrid
from visionsplit.serving.async_helpers import finish_despite_cancellation
from visionsplit.serving.fairness import FairGate

from llm_service.prompts.length_limit import PromptSize
from llm_service.prompts.prompt import Prompt, PromptEncoder


class PromptTurns:
    """One thread for short prompts and one for long ones, so that a short prompt never waits behind a long one.

    Used from one event loop.
    """

    def __init__(self, prompts: PromptEncoder, size: PromptSize) -> None:
        self._prompts = prompts
        self._size = size
        self._short, self._long = FairGate(), FairGate()

    async def encode(self, prompt: Prompt, grids: Sequence[TileGrid], caller: str) -> tuple[int, ...]:
        """Token ids; see `PromptEncoder.encode`. A prompt that cannot fit is refused without waiting.

        Raises:
            InvalidPromptError: raised by `PromptSize.check` or `PromptEncoder.encode`.
        """
        gate = self._short if self._size.check(prompt) else self._long
        encode = partial(self._prompts.encode, prompt, grids, max_tokens=self._size.context_length)
        async with gate.place(caller):
            # A thread cannot be stopped. A cancelled call keeps its turn until the thread is free, or a second one
            # would start beside it.
            return await finish_despite_cancellation(asyncio.to_thread(encode))
