"""The blocking client."""

from collections.abc import Iterable, Sequence

from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataTypeName
from visionsplit.options.prefill import PositionIds, Pruning
from visionsplit.options.sampling import Sampling
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub
from visionsplit.wire.request_id import new_request_id

from visionsplit_client._base import TimeoutArgument
from visionsplit_client._calls import Call, EventStream
from visionsplit_client._collectors import EncodeCollector, GenerationCollector
from visionsplit_client._connections import ConnectedClient
from visionsplit_client._encoded import Encoded, EncodedImage, EncodeEvent
from visionsplit_client._images import ImageSource, as_sources, read_image
from visionsplit_client._prompts import MessageLike, Prompt, prompt_to_proto
from visionsplit_client._requests import (
    check_same_kind,
    encode_request,
    generate_request,
    prefill_of,
    renumbered,
    token_upload,
)
from visionsplit_client._results import Finished, Generation, GenerationEvent
from visionsplit_client._settings import UNSET
from visionsplit_client._tracing import CallTrace


class Client(ConnectedClient):
    """Asks questions about images. Thread-safe. Close it, or use it as a context manager.

    Every call may raise the errors drawn in `visionsplit.errors`, and ImageFetchError. A call's `timeout` in seconds
    covers its retries and replaces the client's; None waits without a limit. Reading the images does not count.

    Args:
        encoders: address of the encoder service, or several, which are used in turn: HOST:PORT, [IPV6]:PORT,
            unix:PATH or dns:NAME:PORT.
        llm: address of the LLM service; only `generate_from_tokens`, `stream_from_tokens` and `llm_info` need it.
        timeout: seconds for each call, or `Timeouts`.
        retries: how a call that found its service unavailable is repeated.
        limits: which images are not read into memory.
        transport: opens the connections in place of `GrpcTransport` or `AsyncGrpcTransport`.
        security: TLS and the token; without it, connections are plain. Certificates are read now, a token's file
            again whenever it changes.

    Raises:
        ValueError: an address has another form, or is given twice.
        CredentialsError: a certificate or token cannot be used, or a token would be sent unencrypted.
    """

    def generate(
        self,
        images: ImageSource | Iterable[ImageSource] | None,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> Generation:
        """Ask about images and wait for the whole answer.

        Args:
            images: the images, in the order of their placeholders in the prompt; None asks without any.
            prompt: a question, which becomes one user turn behind the images, or a finished `Prompt.raw`.
            messages: a conversation instead of a prompt.
            compression: which vision tokens to keep; None means the encoder's default.
            data_type: how tokens travel between the services; None means the encoder's default.
            pruning: which vision tokens the language model drops while it reads; None drops none.
            position_ids: the positions of the tokens in the language model; "original" are those in the uncompressed
                prompt, None means "renumbered", which leaves no gaps.
            sampling: how to decode; None decodes greedily.
        """
        with self.stream(
            images,
            prompt,
            messages=messages,
            compression=compression,
            data_type=data_type,
            pruning=pruning,
            position_ids=position_ids,
            sampling=sampling,
            timeout=timeout,
        ) as events:
            return events.result().generation

    def stream(
        self,
        images: ImageSource | Iterable[ImageSource] | None,
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        compression: Compression | None = None,
        data_type: DataTypeName | None = None,
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EventStream[GenerationEvent, Finished]:
        """Ask about images and get the answer as it comes: `ImageEncoded`, `TextDelta`, at last `Finished`.

        The arguments are those of `generate`. The call starts with the first event asked for.
        """
        files = [read_image(image, limits=self._limits, timeouts=self._timeouts) for image in as_sources(images)]
        form = prompt_to_proto(prompt, messages, num_images=len(files))
        prefill = prefill_of(pruning, position_ids)
        request = generate_request(files, form, compression, data_type, sampling, prefill)
        collector = GenerationCollector(new_request_id())
        trace = CallTrace("EncoderService/Generate", self._metadata(collector.request_id))

        def start(address: str, seconds: float | None) -> Call[encoder_service_pb2.EncoderServiceGenerateResponse]:
            return EncoderServiceStub(self._channel(address)).Generate(
                request, timeout=seconds, metadata=trace.metadata()
            )

        return EventStream(self._attempts(self._encoders, timeout), start, collector, trace)

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
        file = read_image(image, limits=self._limits, timeouts=self._timeouts)
        request = encode_request(file, compression, data_type)
        collector = EncodeCollector(new_request_id(), compression)
        trace = CallTrace("EncoderService/Encode", self._metadata(collector.request_id))

        def start(address: str, seconds: float | None) -> Call[encoder_service_pb2.EncodeResponse]:
            return EncoderServiceStub(self._channel(address)).Encode(
                request, timeout=seconds, metadata=trace.metadata()
            )

        return EventStream(self._attempts(self._encoders, timeout), start, collector, trace)

    def generate_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> Generation:
        """Ask about images that are encoded already; the LLM service alone answers."""
        with self.stream_from_tokens(
            images,
            prompt,
            messages=messages,
            pruning=pruning,
            position_ids=position_ids,
            sampling=sampling,
            timeout=timeout,
        ) as events:
            return events.result().generation

    def stream_from_tokens(
        self,
        images: EncodedImage | Sequence[EncodedImage],
        prompt: str | Prompt | None = None,
        *,
        messages: Sequence[MessageLike] | None = None,
        pruning: Pruning | None = None,
        position_ids: PositionIds | None = None,
        sampling: Sampling | None = None,
        timeout: TimeoutArgument = UNSET,
    ) -> EventStream[GenerationEvent, Finished]:
        """Like `generate_from_tokens`, with the answer as it comes."""
        encoded = [images] if isinstance(images, EncodedImage) else list(images)
        check_same_kind(encoded)
        form = prompt_to_proto(prompt, messages, num_images=len(encoded))
        prefill = prefill_of(pruning, position_ids)
        collector = GenerationCollector(new_request_id(), renumbered(encoded))
        trace = CallTrace("LlmService/Generate", self._metadata(collector.request_id))

        def start(address: str, seconds: float | None) -> Call[llm_service_pb2.LlmServiceGenerateResponse]:
            upload = token_upload(encoded, form, sampling, prefill)
            return LlmServiceStub(self._channel(address)).Generate(upload, timeout=seconds, metadata=trace.metadata())

        return EventStream(self._attempts(self._llm_endpoints(), timeout), start, collector, trace)
