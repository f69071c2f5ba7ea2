"""The blocking client."""

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub

from visionsplit_client._base import (
    DEFAULT_ENCODER,
    BaseClient,
    TimeoutArgument,
    health_from_error,
    health_from_proto,
    request_metadata,
)
from visionsplit_client._calls import Call, EventStream, unary
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
from visionsplit_client._transport import GrpcTransport, Transport


class Client(BaseClient):
    """Asks questions about images. Thread-safe. Close it, or use it as a context manager.

    Every call may raise the errors drawn in `visionsplit.errors`, and ImageFetchError. A call's `timeout` in seconds
    covers its retries and replaces the client's; None waits for ever. Reading the pictures does not count.

    Args:
        encoders: address of the encoder service, or several, which are used in turn: HOST:PORT, [IPV6]:PORT,
            unix:PATH or dns:NAME:PORT.
        llm: address of the LLM service; only `generate_from_tokens`, `stream_from_tokens` and `llm_info` need it.
        timeout: seconds for each call, or `Timeouts`.
        retries: how a call that found its service unavailable is repeated.
        limits: what is not read into memory.
        transport: opens the connections; `GrpcTransport(credentials)` encrypts them.

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
        transport: Transport | None = None,
    ) -> None:
        super().__init__(encoders, llm, timeout, retries, limits)
        self._transport = transport or GrpcTransport()
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def generate(
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
        with self.stream(
            images,
            prompt,
            messages=messages,
            compression=compression,
            data_type=data_type,
            sampling=sampling,
            timeout=timeout,
        ) as events:
            return events.result().generation

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
    ) -> EventStream[GenerationEvent, Finished]:
        """Ask about images and get the answer as it comes: `ImageEncoded`, `TextDelta`, at last `Finished`.

        The arguments are those of `generate`. The call starts with the first event asked for.
        """
        pictures = [read_image(image, limits=self._limits, timeouts=self._timeouts) for image in as_sources(images)]
        request = generate_request(
            pictures, self._prompt(prompt, messages, len(pictures)), compression, data_type, sampling
        )
        collector = GenerationCollector(self._new_request_id())
        metadata = request_metadata(collector.request_id)

        def start(address: str, seconds: float | None) -> Call[encoder_service_pb2.EncoderServiceGenerateResponse]:
            return EncoderServiceStub(self._channel(address)).Generate(request, timeout=seconds, metadata=metadata)

        return EventStream(self._attempts(self._encoders, timeout), start, collector)

    def encode(
        self,
        image: ImageSource,
        compression: Compression | None = None,
        *,
        data_type: DataTypeName | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EncodedImage:
        """The kept vision tokens of one image, to store or to ask several questions about."""
        with self.encode_stream(image, compression, data_type=data_type, timeout=timeout) as events:
            return events.result().image

    def encode_stream(
        self,
        image: ImageSource,
        compression: Compression | None = None,
        *,
        data_type: DataTypeName | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EventStream[EncodeEvent, Encoded]:
        """The kept vision tokens as they are made: `EncodeStarted`, `TokensArrived`, at last `Encoded`."""
        picture = read_image(image, limits=self._limits, timeouts=self._timeouts)
        request = encode_request(picture, compression, data_type)
        collector = EncodeCollector(self._new_request_id(), compression)
        metadata = request_metadata(collector.request_id)

        def start(address: str, seconds: float | None) -> Call[encoder_service_pb2.EncodeResponse]:
            return EncoderServiceStub(self._channel(address)).Encode(request, timeout=seconds, metadata=metadata)

        return EventStream(self._attempts(self._encoders, timeout), start, collector)

    def generate_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> Generation:
        """Ask about images that are encoded already; the LLM service alone answers."""
        with self.stream_from_tokens(images, prompt, messages=messages, sampling=sampling, timeout=timeout) as events:
            return events.result().generation

    def stream_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EventStream[GenerationEvent, Finished]:
        """Like `generate_from_tokens`, with the answer as it comes."""
        encoded = [images] if isinstance(images, EncodedImage) else list(images)
        check_same_kind(encoded)
        form = self._prompt(prompt, messages, len(encoded))
        collector = GenerationCollector(self._new_request_id(), renumbered(encoded))
        metadata = request_metadata(collector.request_id)

        def start(address: str, seconds: float | None) -> Call[llm_service_pb2.LlmServiceGenerateResponse]:
            upload = token_upload(encoded, form, sampling)
            return LlmServiceStub(self._channel(address)).Generate(upload, timeout=seconds, metadata=metadata)

        return EventStream(self._attempts(self._llm_endpoints(), timeout), start, collector)

    def encoder_info(self, *, timeout: TimeoutArgument = UNSET) -> EncoderInfo:
        """What an encoder runs, offers and accepts."""
        request = encoder_service_pb2.GetEncoderInfoRequest()
        return EncoderInfo.from_proto(
            unary(
                self._attempts(self._encoders, timeout),
                lambda address, seconds: EncoderServiceStub(self._channel(address)).GetEncoderInfo(
                    request, timeout=seconds
                ),
            )
        )

    def llm_info(self, *, timeout: TimeoutArgument = UNSET) -> LlmInfo:
        """What the LLM service runs and accepts."""
        request = llm_service_pb2.GetLlmInfoRequest()
        return LlmInfo.from_proto(
            unary(
                self._attempts(self._llm_endpoints(), timeout),
                lambda address, seconds: LlmServiceStub(self._channel(address)).GetLlmInfo(request, timeout=seconds),
            )
        )

    def health(self, *, timeout: float = 5.0) -> dict[str, HealthStatus]:
        """The state of every address, without retries. Raises only if a service has no health check."""
        self._check_open()
        return {address: self._health_of(address, timeout) for address in self._all_addresses()}

    def close(self) -> None:
        """Close the connections; calls that still run end with CancelledError."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _health_of(self, address: str, timeout: float) -> HealthStatus:
        stub = health_pb2_grpc.HealthStub(self._channel(address))
        try:
            return health_from_proto(stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout))
        except grpc.RpcError as error:
            return health_from_error(error, address, timeout)

    def _channel(self, address: str) -> grpc.Channel:
        with self._lock:
            self._check_open()
            if address not in self._channels:
                self._channels[address] = self._transport.connect(address)
            return self._channels[address]
