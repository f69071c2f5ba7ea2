"""The services that are measured: running ones, or some that this command starts.

It starts one half at a time, which has the whole machine, and stops it before it starts the other.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from visionsplit.options.compression import Compression
from visionsplit_batch.runners.base import Work
from visionsplit_batch.runners.services_identity import identify
from visionsplit_client import ClientSecurity, Retries, UnavailableError

from visionsplit_cli.local_services.ports import free_addresses
from visionsplit_cli.local_services.processes import Service
from visionsplit_cli.local_services.starting import wait_until_healthy
from visionsplit_cli.plan.sweep import SweepRequest

_PLAIN = ClientSecurity()
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.2
_CLOSING_SECONDS = 0.2
_STDERR = 2


@dataclass(frozen=True)
class RunningServices:
    """Services that others have started."""

    encoder_addresses: tuple[str, ...]
    llm_address: str
    security: ClientSecurity = _PLAIN

    def check(self, request: SweepRequest) -> None:
        """See `Services`: that all answer, and belong together. What they refuse shows when they are asked."""
        work = Work("caption", prompts=(request.prompt,))
        asyncio.run(identify(work, self.encoder_addresses, self.llm_address, security=self.security, retries=Retries()))

    @contextmanager
    def encoders(self) -> Iterator[Sequence[str]]:
        yield self.encoder_addresses

    @contextmanager
    def llm(self) -> Iterator[str]:
        yield self.llm_address


@dataclass(frozen=True)
class OwnServices:
    """An encoder service and an LLM service that are started here when it is their turn."""

    model: str  # checkpoint of both
    start_timeout: float  # seconds until one must serve
    note: Callable[[str], None]  # called with a line at each start
    encoder_options: tuple[str, ...] = ()  # further ones, as on their command lines
    llm_options: tuple[str, ...] = ()
    security: ClientSecurity = _PLAIN

    def check(self, request: SweepRequest) -> None:
        """See `Services`: that they are installed, and know the method and its ratios."""
        for package in ("encoder_service", "llm_service", "torch"):
            if find_spec(package) is None:
                raise UnavailableError(f"starting services needs visionsplit[encoder,llm]: {package} is not installed")
        if request.compression == Compression():
            return  # nothing to be wrong; others cost the seconds that PyTorch takes to be imported
        from encoder_service.compression import compose

        for ratio in request.ratios:
            compose(request.compression_at(ratio))

    @contextmanager
    def encoders(self) -> Iterator[Sequence[str]]:
        self.note("starting the encoder service")
        # No image comes twice, so a cache would only fill.
        options = ("--cache-bytes", "0", *self.encoder_options)
        with _running("encoder_service", self.model, options, self.start_timeout) as address:
            yield (address,)

    @contextmanager
    def llm(self) -> Iterator[str]:
        self.note("starting the LLM service")
        with _running("llm_service", self.model, self.llm_options, self.start_timeout) as address:
            yield address


@contextmanager
def _running(module: str, model: str, options: Sequence[str], start_timeout: float) -> Iterator[str]:
    """The address of a service that serves until the end of the block.

    Raises:
        UnavailableError: it does not start.
    """
    (address,) = free_addresses(["127.0.0.1:0"])
    arguments = ["--model", model, "--log-level", "WARNING", *options]
    service = Service(module, address, arguments, stdout=_STDERR)  # what it prints is not our result
    try:
        service.start()
        wait_until_healthy([service], timeout=start_timeout, pause=_pause, security=_PLAIN)
        yield address
    finally:
        # Calls that lie in cycles hold our connection; of one that the service's end cuts off, gRPC prints a line.
        gc.collect()
        time.sleep(_CLOSING_SECONDS)
        service.stop(grace=_GRACE_SECONDS, hurry=lambda: False)


def _pause() -> bool:
    time.sleep(_POLL_SECONDS)
    return False
