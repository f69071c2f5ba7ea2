"""Turns the messages of a stream into events and, at its end, into the result. No input or output happens here."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from visionsplit.errors import InternalError, InvalidRequestError
from visionsplit.options.compression import Compression
from visionsplit.options.messages import layout_from_proto
from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2
from visionsplit.wire.same_fields import from_message
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from visionsplit_client._encoded import Encoded, EncodedImage, EncodeEvent, EncodeStarted, TokensArrived
from visionsplit_client._info import VisionFormat
from visionsplit_client._results import (
    Finished,
    Generation,
    GenerationEvent,
    ImageEncoded,
    ImageSummary,
    LlmTimings,
    TextDelta,
    Usage,
    finish_reason,
)

GenerateResponse = encoder_service_pb2.EncoderServiceGenerateResponse | llm_service_pb2.LlmServiceGenerateResponse


class GenerationCollector:
    """Follows one Generate stream of either service."""

    def __init__(
        self, request_id: str, images: Sequence[ImageSummary] = (), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.request_id = request_id
        self._clock = clock
        self._began = clock()
        self._first_token: float | None = None
        self._images = list(images)
        self._text: list[str] = []
        self._token_ids: list[int] = []
        self._last: Finished | None = None

    def begin(self) -> None:
        """The call starts now."""
        self._began = self._clock()

    def commits(self, message: GenerateResponse) -> bool:
        """Whether a call that brought this message must not be repeated."""
        return message.WhichOneof("event") != "image"

    def take(self, message: GenerateResponse) -> GenerationEvent:
        """Raises InternalError for a message that is out of order or invalid."""
        with _service_at_fault():
            return self._take(message)

    def _take(self, message: GenerateResponse) -> GenerationEvent:
        kind = message.WhichOneof("event")
        if self._last is not None or kind is None:
            raise InternalError("the service sent an event that is empty or comes after the last one")
        if kind == "delta":
            return self._take_delta(message.delta)
        if kind == "summary":
            self._last = Finished(self._generation(message.summary))
            return self._last
        assert isinstance(message, encoder_service_pb2.EncoderServiceGenerateResponse)  # the only one with images
        self._images.append(ImageSummary.from_proto(message.image))
        return ImageEncoded(self._images[-1])

    def end(self) -> Finished:
        """The last event. Raises InternalError if the stream ended without its summary."""
        if self._last is None:
            raise InternalError("the service ended its answer without a summary; the answer is incomplete")
        return self._last

    def _take_delta(self, delta: generation_pb2.TextDelta) -> TextDelta:
        if self._first_token is None:
            self._first_token = self._clock()
        self._text.append(delta.text)
        self._token_ids.extend(delta.token_ids)
        return TextDelta(delta.text, tuple(delta.token_ids))

    def _generation(self, summary: generation_pb2.GenerationSummary) -> Generation:
        now = self._clock()
        return Generation(
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            finish_reason=finish_reason(summary.finish_reason),
            usage=from_message(Usage, summary.usage),
            timings=from_message(LlmTimings, summary.timings),
            layer_tokens=tuple(summary.layer_tokens),
            images=tuple(sorted(self._images, key=lambda image: image.index)),
            request_id=self.request_id,
            time_to_first_token_seconds=(self._first_token or now) - self._began,
            total_seconds=now - self._began,
        )


class EncodeCollector:
    """Follows one Encode stream and checks it as it comes."""

    def __init__(self, request_id: str, compression: Compression | None) -> None:
        self.request_id = request_id
        self._compression = compression
        self._started: EncodeStarted | None = None
        self._assembler: TokenAssembler | None = None
        self._last: Encoded | None = None

    def begin(self) -> None:
        """The call starts now."""

    def commits(self, message: encoder_service_pb2.EncodeResponse) -> bool:
        """Whether a call that brought this message must not be repeated."""
        return message.WhichOneof("event") != "header"

    def take(self, message: encoder_service_pb2.EncodeResponse) -> EncodeEvent:
        """Raises InternalError for a message that is out of order or invalid."""
        with _service_at_fault():
            return self._take(message)

    def _take(self, message: encoder_service_pb2.EncodeResponse) -> EncodeEvent:
        kind = message.WhichOneof("event")
        if self._last is not None or kind is None or (kind == "header") != (self._started is None):
            raise InternalError(f"the encoder sent {kind or 'an empty event'} out of order")
        if self._started is None or self._assembler is None:
            self._started = self._take_header(message.header)
            return self._started
        if kind == "tokens":
            self._assembler.add(message.tokens)
            return TokensArrived.from_proto(message.tokens)
        summary = ImageSummary.from_proto(message.summary)
        tokens = self._assembler.finish()
        if (summary.grid, summary.budgets) != (tokens.grid, tokens.budgets):
            raise InternalError("the encoder's summary contradicts its header")
        started = self._started
        self._last = Encoded(EncodedImage(tokens, started.format, started.layout, summary, self._compression))
        return self._last

    def end(self) -> Encoded:
        """The last event. Raises InternalError if the stream ended without its summary."""
        if self._last is None:
            raise InternalError("the encoder ended its answer without a summary; the tokens are incomplete")
        return self._last

    def _take_header(self, header: encoder_service_pb2.EncodeHeader) -> EncodeStarted:
        grid = grid_from_proto(header.grid)
        format_ = VisionFormat.from_proto(header.format)
        self._assembler = TokenAssembler(grid, header.tokens, feature_size=format_.feature_size)
        budgets, quotas = tuple(header.tokens.budgets), self._assembler.quotas
        return EncodeStarted(grid, budgets, quotas, format_, layout_from_proto(header.layout))


@contextmanager
def _service_at_fault() -> Iterator[None]:
    """The checks on messages blame their sender, which here is the service and not the caller."""
    try:
        yield
    except InvalidRequestError as error:
        raise InternalError(f"the service sent an invalid answer: {error}") from error
