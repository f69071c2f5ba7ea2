"""Several LLM services behind one encoder: the one with the fewest calls is asked next, and a lost one is left alone.

Each is watched through grpc.health.v1. One that is not serving, or failed a call with UNAVAILABLE, is passed over until
it serves again or a while has passed, which doubles with every failure. With a single service nothing is watched: there
is no choice.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from visionsplit.errors import IncompatibleServicesError, UnavailableError, VisionSplitError

from encoder_service.llm_client import LlmCall, LlmClient

_log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_FIRST_LOOK_SECONDS = 2.0  # that the first calls wait for what the watches find


class Pauses:
    """How long to leave something alone that keeps failing: twice as long each time, give or take a half."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE_SECONDS

    def next(self) -> float:
        pause, self._next = self._next, min(self._next * 2, _LONGEST_PAUSE_SECONDS)
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._next = _FIRST_PAUSE_SECONDS


class LlmGateway:
    """One LLM service, and what is known of it."""

    def __init__(self, address: str, client: LlmClient) -> None:
        self.address = address
        self.client = client
        self.in_flight = 0
        self.serving: bool | None = None  # None: nobody knows, and a call will tell
        self.checkpoint: tuple[str, str] | None = None  # what it runs, while it serves: name, encoder fingerprint
        self.looked = asyncio.Event()  # it has been asked once
        self._retry_at = 0.0  # time.monotonic
        self._pauses = Pauses()

    @property
    def ready(self) -> bool:
        return self.serving is not False and time.monotonic() >= self._retry_at

    @contextmanager
    def call(self, begin: Callable[[LlmClient], LlmCall]) -> Iterator[LlmCall]:
        """Begin a call; leaving cancels it if it has not ended."""
        self.in_flight += 1
        call = begin(self.client)
        try:
            yield call
        finally:
            call.cancel()
            self.in_flight -= 1

    def succeeded(self) -> None:
        self._pauses.reset()
        self._retry_at = 0.0

    def failed(self) -> None:
        """A call ended with UNAVAILABLE."""
        self._retry_at = time.monotonic() + self._pauses.next()

    async def watch(self) -> None:
        """Follow its health for good."""
        pauses = Pauses()
        while True:
            try:
                async for serving in self.client.health():
                    self.checkpoint = await self.client.checkpoint() if serving else None
                    self._note(serving)
                    pauses.reset()
                self._note(False)
            except UnavailableError:
                self._note(False)
            except VisionSplitError as error:
                _log.debug("%s does not say how it is: %s", self.address, error)
                self._note(None)
            await asyncio.sleep(pauses.next())

    def _note(self, serving: bool | None) -> None:
        if serving is not self.serving:
            _log.info("LLM service %s: %s", self.address, {True: "serving", False: "lost", None: "unknown"}[serving])
        if serving and not self.serving:
            self.succeeded()
        if not serving:
            self.checkpoint = None
        self.serving = serving
        self.looked.set()


class LlmGateways:
    """All LLM services of this encoder. Used from one event loop."""

    def __init__(self, gateways: Sequence[LlmGateway]) -> None:
        self._gateways = list(gateways)
        self._turn = 0
        self._watches = [asyncio.create_task(gateway.watch()) for gateway in gateways] if len(gateways) > 1 else []

    def __len__(self) -> int:
        return len(self._gateways)

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for gateway in self._gateways:
            await gateway.client.close()

    async def pick(self, *, but: LlmGateway | None = None) -> LlmGateway:
        """The one to ask: the fewest calls in flight, in turns where they are equal.

        If none is ready, one that is not: its failure then says why.

        Args:
            but: one that has failed this call; there must be another.

        Raises:
            IncompatibleServicesError: they run different checkpoints.
        """
        if self._watches:
            await self._first_look()
            self._check_alike()
        self._turn += 1
        start = self._turn % len(self._gateways)
        order = [gateway for gateway in self._gateways[start:] + self._gateways[:start] if gateway is not but]
        return min(order, key=lambda gateway: (not gateway.ready, gateway.in_flight))

    async def _first_look(self) -> None:
        looks = [gateway.looked for gateway in self._gateways]
        if all(look.is_set() for look in looks):
            return
        try:
            async with asyncio.timeout(_FIRST_LOOK_SECONDS):
                for look in looks:
                    await look.wait()
        except TimeoutError:
            return  # one that does not answer is not waited for

    def _check_alike(self) -> None:
        """An answer must not depend on who is asked."""
        known = sorted({gateway.checkpoint for gateway in self._gateways if gateway.checkpoint is not None})
        if len(known) > 1:
            names = " and ".join(f"{name!r} (vision tower {fingerprint[:8]})" for name, fingerprint in known)
            raise IncompatibleServicesError(
                f"the LLM services behind this encoder were started from different checkpoints: {names}"
            )
