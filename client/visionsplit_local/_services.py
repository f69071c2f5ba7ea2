"""Both services of one checkpoint on an event loop of this process, without a network."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc
from visionsplit.server.in_process import InProcessMethods
from visionsplit.server.server import ServiceServer

from encoder_service.config import EncoderConfig
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoints import LlmEndpoint, LlmEndpoints
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from visionsplit_local._channels import InProcessChannel, InProcessConnection

_T = TypeVar("_T")
ENCODER, LLM = "unix:in-process-encoder", "unix:in-process-llm"  # what calls name in place of addresses


class Services:
    """Loads both services, and is the transport of a client that calls them. Any thread may use it.

    The loop runs in a separate thread, so callers may be synchronous code, threads or a notebook whose own loop runs.
    """

    encrypted = True  # as good as that: nothing leaves the process

    def __init__(self, encoder: EncoderConfig, llm: LlmConfig) -> None:
        """Load the weights. Blocks.

        Raises:
            CheckpointError: a checkpoint cannot be read or used.
            ConfigError: this machine or the checkpoint cannot honour a setting.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="visionsplit-local", daemon=True)
        self._thread.start()
        self._servers: list[ServiceServer] = []
        self._methods: dict[str, InProcessMethods] = {}
        try:
            self._wait_for(self._start(encoder, llm))
        except BaseException:
            self.close()
            raise

    def connect(self, address: str) -> grpc.Channel:
        """A channel to `ENCODER` or `LLM`."""
        return InProcessChannel(self._methods[address], self._loop)

    def close(self) -> None:
        """End calls that still run, and release the weights. Blocks. Nothing happens the second time."""
        if self._loop.is_closed():
            return
        self._wait_for(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self, encoder: EncoderConfig, llm: LlmConfig) -> None:
        connection = InProcessConnection()
        gateways = LlmEndpoints([LlmEndpoint(LLM, LlmClient(connection))])
        # The encoder first: the LLM service takes a share of the GPU memory that it finds free.
        self._methods[ENCODER] = await self._serve(EncoderServer(encoder, gateways))
        self._methods[LLM] = connection.methods = await self._serve(LlmServer(llm))

    async def _serve(self, server: ServiceServer) -> InProcessMethods:
        self._servers.append(server)
        return await server.start_in_process()

    async def _stop(self) -> None:
        for server in self._servers:
            await server.stop(None)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def _wait_for(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:  # also where the user interrupts: the work must not go on beside what comes next
            future.cancel()
            raise
