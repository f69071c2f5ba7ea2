"""Both services of one checkpoint on an event loop of this process, without a network."""

import grpc
from visionsplit.server.in_process import InProcessMethods
from visionsplit.server.server import ServiceServer
from visionsplit.serving.background_loop import BackgroundLoop

from encoder_service.config import EncoderConfig
from encoder_service.llm.client import LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoint, LlmEndpoints
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from visionsplit_local._channels import InProcessChannel, InProcessConnection

ENCODER, LLM = "unix:in-process-encoder", "unix:in-process-llm"  # what calls name in place of addresses


class Services:
    """Loads both services, and is the transport of a client that calls them. Any thread may use it.

    The loop runs in a separate thread, so callers may be synchronous code, threads or a notebook whose own loop runs.
    """

    encrypted = True  # nothing leaves the process, so a token is safe

    def __init__(self, encoder: EncoderConfig, llm: LlmConfig) -> None:
        """Load the weights. Blocks.

        Raises:
            CheckpointError: a checkpoint cannot be read or used.
            ConfigError: this machine or the checkpoint cannot honour a setting.
        """
        self._loop = BackgroundLoop("visionsplit-local")
        self._loop.start()
        self._servers: list[ServiceServer] = []
        self._methods: dict[str, InProcessMethods] = {}
        try:
            self._loop.run(self._start(encoder, llm))
        except BaseException:
            self.close()
            raise

    def connect(self, address: str) -> grpc.Channel:
        """A channel to `ENCODER` or `LLM`."""
        return InProcessChannel(self._methods[address], self._loop.loop)

    def close(self) -> None:
        """End calls that still run, and release the weights. Blocks. Has no effect when called again."""
        if not self._loop.closed:
            self._loop.run(self._stop())
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
        await self._loop.loop.shutdown_asyncgens()
        await self._loop.loop.shutdown_default_executor()
