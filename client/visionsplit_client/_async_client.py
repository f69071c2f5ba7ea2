"""The client for an event loop, the mirror of `_client`."""

# ruff: noqa: ASYNC109 - the timeout is a deadline that travels with the call, which asyncio.timeout cannot do

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub

from visionsplit_client._async_calls import AsyncCall, AsyncEventStream, AsyncUpload, unary
from visionsplit_client._base import (
    DEFAULT_ENCODER,
    BaseClient,
    TimeoutArgument,
    health_from_error,
    health_from_proto,
    request_metadata,
)
from visionsplit_client._collect import EncodeCollector, GenerationCollector
from visionsplit_client._encoded import Encoded, EncodedImage, EncodeEvent
from visionsplit_client._images import ImageSource, as_sources, read_image
from visionsplit_client._info import EncoderInfo, HealthStatus, LlmInfo
from visionsplit_client._options import Compression, DataTypeName, Sampling
from visionsplit_client._prompts import MessageLike, Prompt
from visionsplit_client._requests import check_same_kind, encode_request, generate_request, renumbered, token_upload
from visionsplit_client._results import Finished, Generation, GenerationEvent
from visionsplit_client._settings import (
    DEFAULT_LIMITS,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUTS,
    UNSET,
    Limits,
    Retries,
    Timeouts,
)
from visionsplit_client._transport import AsyncGrpcTransport, AsyncTransport

StartGenerate = Callable[[str, float | None], AsyncCall[encoder_service_pb2.EncoderServiceGenerateResponse]]
StartEncode = Callable[[str, float | None], AsyncCall[encoder_service_pb2.EncodeResponse]]
StartGenerateFromTokens = Callable[[str, float | None], AsyncCall[llm_service_pb2.LlmServiceGenerateResponse]]


class AsyncClient(BaseClient):
    """Asks questions about images. It belongs to one event loop. Close it, or use it as an async context manager.

    Every call may raise the errors drawn in `visionsplit.errors`, and ImageFetchError. A call's `timeout` in seconds
    covers its retries and replaces the client's; None waits for ever. Reading the pictures does not count.

    Args:
        encoders: address of the encoder service, or several, which are used in turn: HOST:PORT, [IPV6]:PORT,
            unix:PATH or dns:NAME:PORT.
        llm: address of the LLM service; only `generate_from_tokens`, `stream_from_tokens` and `llm_info` need it.
        timeout: seconds for each call, or `Timeouts`.
        retries: how a call that found its service unavailable is repeated.
        limits: what is not read into memory.
        transport: opens the connections; `AsyncGrpcTransport(credentials)` encrypts them.

    Raises:
        ValueError: an address of another form, or given twice.
    """

    def __init__(
        self,
        encoders: str | Sequence[str] = DEFAULT_ENCODER,
        *,
        llm: str | None = None,
        timeout: Timeouts | float | None = DEFAULT_TIMEOUTS,
        retries: Retries = DEFAULT_RETRIES,
        limits: Limits = DEFAULT_LIMITS,
        transport: AsyncTransport | None = None,
    ) -> None:
        super().__init__(encoders, llm, timeout, retries, limits)
        self._transport = transport or AsyncGrpcTransport()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def generate(
        self,
        images: ImageSource | Sequence[ImageSource] | None,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> Generation:
        """Ask about images and wait for the whole answer.

        Args:
            images: the pictures, in the order of their places in the prompt; None asks without any.
            prompt: a question, which becomes one user turn behind the images, or a finished `Prompt.raw`.
            messages: a conversation instead of a prompt.
            compression: which vision tokens to keep; None means the encoder's default.
            data_type: how tokens travel between the services; None means the encoder's default.
            sampling: how to decode; None decodes greedily.
        """
        async with self.stream(
            images,
            prompt,
            messages=messages,
            compression=compression,
            data_type=data_type,
            sampling=sampling,
            timeout=timeout,
        ) as events:
            return (await events.result()).generation

    def stream(
        self,
        images: ImageSource | Sequence[ImageSource] | None,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> AsyncEventStream[GenerationEvent, Finished]:
        """Ask about images and get the answer as it comes: `ImageEncoded`, `TextDelta`, at last `Finished`.

        The arguments are those of `generate`. The call starts with the first event asked for.
        """
        self._check_open()
        sources = as_sources(images)
        form = self._prompt(prompt, messages, len(sources))
        collector = GenerationCollector(self._new_request_id())
        metadata = request_metadata(collector.request_id)

        async def prepare() -> StartGenerate:
            pictures = await asyncio.gather(*(self._read(source) for source in sources))
            request = generate_request(pictures, form, compression, data_type, sampling)
            return lambda address, seconds: EncoderServiceStub(self._channel(address)).Generate(
                request, timeout=seconds, metadata=metadata
            )

        return AsyncEventStream(self._attempts(self._encoders, timeout), prepare, collector)

    async def encode(
        self,
        image: ImageSource,
        compression: Compression | None = None,
        *,
        data_type: DataTypeName | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EncodedImage:
        """The kept vision tokens of one image, to store or to ask several questions about."""
        async with self.encode_stream(image, compression, data_type=data_type, timeout=timeout) as events:
            return (await events.result()).image

    def encode_stream(
        self,
        image: ImageSource,
        compression: Compression | None = None,
        *,
        data_type: DataTypeName | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> AsyncEventStream[EncodeEvent, Encoded]:
        """The kept vision tokens as they are made: `EncodeStarted`, `TokensArrived`, at last `Encoded`."""
        collector = EncodeCollector(self._new_request_id(), compression)
        metadata = request_metadata(collector.request_id)

        async def prepare() -> StartEncode:
            request = encode_request(await self._read(image), compression, data_type)
            return lambda address, seconds: EncoderServiceStub(self._channel(address)).Encode(
                request, timeout=seconds, metadata=metadata
            )

        return AsyncEventStream(self._attempts(self._encoders, timeout), prepare, collector)

    async def generate_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> Generation:
        """Ask about images that are encoded already; the LLM service alone answers."""
        async with self.stream_from_tokens(
            images, prompt, messages=messages, sampling=sampling, timeout=timeout
        ) as events:
            return (await events.result()).generation

    def stream_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> AsyncEventStream[GenerationEvent, Finished]:
        """Like `generate_from_tokens`, with the answer as it comes."""
        encoded = [images] if isinstance(images, EncodedImage) else list(images)
        check_same_kind(encoded)
        form = self._prompt(prompt, messages, len(encoded))
        collector = GenerationCollector(self._new_request_id(), renumbered(encoded))
        metadata = request_metadata(collector.request_id)

        async def prepare() -> StartGenerateFromTokens:
            return lambda address, seconds: AsyncUpload(
                LlmServiceStub(self._channel(address)).Generate(
                    token_upload(encoded, form, sampling), timeout=seconds, metadata=metadata
                )
            )

        return AsyncEventStream(self._attempts(self._llm_endpoints(), timeout), prepare, collector)

    async def encoder_info(self, *, timeout: TimeoutArgument = UNSET) -> EncoderInfo:
        """What an encoder runs, offers and accepts."""
        request = encoder_service_pb2.GetEncoderInfoRequest()
        return EncoderInfo.from_proto(
            await unary(
                self._attempts(self._encoders, timeout),
                lambda address, seconds: EncoderServiceStub(self._channel(address)).GetEncoderInfo(
                    request, timeout=seconds
                ),
            )
        )

    async def llm_info(self, *, timeout: TimeoutArgument = UNSET) -> LlmInfo:
        """What the LLM service runs and accepts."""
        request = llm_service_pb2.GetLlmInfoRequest()
        return LlmInfo.from_proto(
            await unary(
                self._attempts(self._llm_endpoints(), timeout),
                lambda address, seconds: LlmServiceStub(self._channel(address)).GetLlmInfo(request, timeout=seconds),
            )
        )

    async def health(self, *, timeout: float = 5.0) -> dict[str, HealthStatus]:
        """The state of every address, without retries. Raises only if a service has no health check."""
        self._check_open()
        addresses = self._all_addresses()
        statuses = await asyncio.gather(*(self._health_of(address, timeout) for address in addresses))
        return dict(zip(addresses, statuses, strict=True))

    async def close(self) -> None:
        """Close the connections; calls that still run end with CancelledError."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _read(self, source: ImageSource) -> bytes:
        return await asyncio.to_thread(read_image, source, limits=self._limits, timeouts=self._timeouts)

    async def _health_of(self, address: str, timeout: float) -> HealthStatus:
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        try:
            return health_from_proto(await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout))
        except grpc.RpcError as error:
            return health_from_error(error, address, timeout)

    def _channel(self, address: str) -> grpc.aio.Channel:
        self._check_open()
        if address not in self._channels:
            self._channels[address] = self._transport.connect(address)
        return self._channels[address]
