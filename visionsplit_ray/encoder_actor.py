"""One encoder service as a Ray actor."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import ray
from visionsplit.serving.process import process_watched, raise_open_files_limit

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer


@dataclass(frozen=True)
class Report:
    """What an encoder says about itself."""

    address: str
    tiles: int  # to encode, from before their image is decoded


class EncoderActor:
    """Serves on an address of its node. Ray starts the actor again if its process ends."""

    def __init__(self, config: EncoderConfig, listen: str | None) -> None:
        """Nothing is loaded here, because Ray reports an error of a constructor as the death of the actor.

        Args:
            config: the encoder's settings; `listen` is replaced.
            listen: HOST:PORT; None is a free port of the node's address in the cluster.
        """
        listen = listen or f"{ray.util.get_node_ip_address()}:0"
        self._host = listen.rpartition(":")[0]
        self._server = EncoderServer(replace(config, listen=listen))
        self._watched = AsyncExitStack()
        self._starting: asyncio.Task[int] | None = None

    async def report(self) -> Report:
        """Wait until the encoder serves, which the first call starts.

        Raises:
            VisionSplitError, ValueError: the encoder cannot serve.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        port = await asyncio.shield(self._starting)
        return Report(f"{self._host}:{port}", self._server.reserved_tiles)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, and give running calls `grace` seconds to end."""
        await self._server.stop(grace)
        await self._watched.aclose()

    async def _start(self) -> int:
        raise_open_files_limit()
        port = await self._server.start()
        # The same as in the service's own process: freed memory goes back to the system, and the thread that computes
        # soon gets the interpreter back from a busy event loop.
        await self._watched.enter_async_context(process_watched())
        return port
