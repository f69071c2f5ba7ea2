"""Several LLM services behind one encoder: the one with the fewest calls is asked next, and a lost one is skipped.

Each is asked for its health (grpc.health.v1, Check) twice a second, and has a second to answer. A Watch would hear of a
change sooner, but of one that a half-open connection or a proxy swallows it would never hear. One that does not
serve, does not answer, or failed a call with UNAVAILABLE is passed over until it serves again or a while has passed.

A single LLM service is not asked for its health, because the encoder has no other one to choose.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from visionsplit.errors import IncompatibleServicesError, VisionSplitError
from visionsplit.network.endpoint_selection import Backoff, Rotation

from encoder_service.llm.client import Checkpoint, LlmCall, LlmClient

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 1.5
# Together less than two seconds, the longest time for which an encoder may be wrong about an LLM service.
_LOOK_EVERY_SECONDS = 0.5
_ANSWER_SECONDS = 1.0


class LlmEndpoint:
    """One LLM service and its known state."""

    def __init__(self, address: str, client: LlmClient) -> None:
        self.address = address
        self.client = client
        self.in_flight = 0
        self.serving = False
        self.checkpoint: Checkpoint | None = None  # the checkpoint that it runs, while it serves
        self.looked = asyncio.Event()  # set once it has been asked
        self._instance: str | None = None  # identifies the start of the service that runs `checkpoint`
        self._backoff = Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, jitter=0.5)

    @property
    def ready(self) -> bool:
        return self.serving and not self._backoff.remaining

    @contextmanager
    def call(self, begin: Callable[[LlmClient], LlmCall]) -> Iterator[LlmCall]:
        """Start a call; leaving the context cancels it if it has not ended."""
        call = begin(self.client)
        self.in_flight += 1
        try:
            yield call
        finally:
            call.cancel()
            self.in_flight -= 1

    def succeeded(self) -> None:
        self._backoff.succeeded()

    def failed(self) -> None:
        """Record that a call ended with UNAVAILABLE."""
        self._backoff.failed()

    async def follow(self) -> None:
        """Check its health until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await self._look()
            except TimeoutError:
                self._note(False, f"no answer within {_ANSWER_SECONDS:g} s")
            except VisionSplitError as error:
                self._note(False, str(error))
            except Exception:  # the task must not end, or the state would never change again
                if self.serving or not self.looked.is_set():
                    _log.exception("the LLM service at %s cannot be asked for its health", self.address)
                self._note(False, "see above")
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _look(self) -> None:
        health = await self.client.health()
        if not health.serving:
            self._note(False, "it says so")
            return
        # Another service may have replaced it between two checks, behind the same address.
        if self.checkpoint is None or health.instance is None or health.instance != self._instance:
            self.checkpoint = await self.client.checkpoint()
            self._instance = health.instance
            self.succeeded()
        self._note(True)

    def _note(self, serving: bool, reason: str = "") -> None:
        if serving is not self.serving or not self.looked.is_set():
            state = "serving" if serving else f"not serving: {reason}"
            _log.log(logging.INFO if serving else logging.WARNING, "LLM service %s: %s", self.address, state)
        if not serving:
            self.checkpoint = None
        self.serving = serving
        self.looked.set()


class LlmEndpoints:
    """All LLM services of this encoder. Used from one event loop."""

    def __init__(self, endpoints: Sequence[LlmEndpoint]) -> None:
        self._endpoints = list(endpoints)
        self._rotation = Rotation(self._endpoints)
        self._following = (
            [asyncio.create_task(endpoint.follow()) for endpoint in endpoints] if len(endpoints) > 1 else []
        )

    def __len__(self) -> int:
        return len(self._endpoints)

    async def close(self) -> None:
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.client.close()

    async def pick(self, *, but: LlmEndpoint | None = None) -> LlmEndpoint:
        """Choose the service to ask: the one with the fewest calls in flight, in turn if these are equal.

        If none is ready, one that is not: its failure then says why.

        Args:
            but: one that has failed this call; there must be another.

        Raises:
            IncompatibleServicesError: they run different checkpoints.
        """
        if self._following:
            for endpoint in self._endpoints:  # asked at the start; what does not answer is known after a second
                await endpoint.looked.wait()
            self._check_alike()
        return self._rotation.pick(lambda endpoint: (endpoint is but, not endpoint.ready, endpoint.in_flight))

    def _check_alike(self) -> None:
        """Check that an answer does not depend on which service is asked."""
        known = sorted({endpoint.checkpoint for endpoint in self._endpoints if endpoint.checkpoint is not None})
        if len(known) > 1:
            names = " and ".join(f"{one.name!r} (vision tower {one.encoder_fingerprint[:8]})" for one in known)
            raise IncompatibleServicesError(
                f"the LLM services behind this encoder were started from different checkpoints: {names}"
            )
