"""One encoder service as a Ray actor."""

import asyncio
from dataclasses import dataclass, replace

import ray

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
        self._starting: asyncio.Task[int] | None = None

    async def report(self) -> Report:
        """Wait until the encoder serves, which the first call starts.

        Raises:
            VisionSplitError, ValueError: the encoder cannot serve.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._server.start())
        port = await asyncio.shield(self._starting)
        return Report(f"{self._host}:{port}", self._server.reserved_tiles)

    async def stop(self, grace: float) -> None:
        """Refuse new calls, and give running calls `grace` seconds to end."""
        await self._server.stop(grace)
