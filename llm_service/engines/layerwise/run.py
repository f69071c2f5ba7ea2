"""One request in the layerwise engine, from the queue to its last token."""

import asyncio
import time
from functools import partial

from visionsplit.errors import VisionSplitError

from llm_service.engines.base import EngineRequest
from llm_service.engines.layerwise.model import LayerwiseModel, LayerwiseState
from llm_service.engines.layerwise.prompt import read_prompt
from llm_service.engines.layerwise.token_chooser import TokenChooser
from llm_service.engines.token_buffer import TokenBuffer, post
from llm_service.job import TokenEvent


class Run:
    """A queued or running request.

    It is created on the event loop that reads `events`; everything else belongs to the engine's thread.
    """

    def __init__(self, request: EngineRequest) -> None:
        self.request = request
        self.events: TokenBuffer = TokenBuffer()
        self.cancelled = False  # set by the event loop
        self._loop = asyncio.get_running_loop()
        self._arrived = time.perf_counter()
        self._queue_seconds = 0.0
        self._state: LayerwiseState | None = None
        self._chooser: TokenChooser | None = None
        self._last = -1
        self._generated = 0

    @property
    def kv_tokens(self) -> int:
        """The most tokens that the request may need in a layer's cache."""
        return self.request.num_prompt_tokens + self.request.sampling.max_new_tokens

    def advance(self, model: LayerwiseModel, *, image_token_id: int, end_ids: frozenset[int]) -> bool:
        """Run one step, on the prompt or on the last token; return whether it gave the answer's last token."""
        layer_tokens = None
        if self._state is None or self._chooser is None:
            self._queue_seconds = time.perf_counter() - self._arrived
            self._state, self._chooser = self._begin(model, image_token_id)
            if self.request.pruning is not None:
                layer_tokens = self._state.layer_tokens
        else:
            model.step(self._state, self._last)
        self._last = self._chooser.choose(self._state.logits, self.request.num_prompt_tokens + self._generated)
        self._generated += 1
        finished = self._last in end_ids or self._generated == self.request.sampling.max_new_tokens
        self._post(TokenEvent((self._last,), finished, self._queue_seconds, layer_tokens))
        return finished

    def fail(self, error: VisionSplitError) -> None:
        """End the request with an error."""
        self._post(error)

    def _begin(self, model: LayerwiseModel, image_token_id: int) -> tuple[LayerwiseState, TokenChooser]:
        request = self.request
        embeddings, layout = read_prompt(request, model, image_token_id=image_token_id)
        chooser = TokenChooser(
            request.sampling, request.token_ids, vocabulary_size=model.vocabulary_size, device=model.device
        )
        return model.prefill(embeddings, layout, request.pruning), chooser

    def _post(self, event: TokenEvent | VisionSplitError) -> None:
        post(self._loop, partial(self.events.put, event))
