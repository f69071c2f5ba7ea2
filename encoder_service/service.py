"""EncoderService as the protocol describes it: checks requests, runs the pipeline, relays the LLM service's text."""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc.aio
from opentelemetry.trace import SpanKind
from visionsplit.errors import IncompatibleServicesError, InvalidCompressionError, InvalidRequestError
from visionsplit.telemetry.setup import Telemetry
from visionsplit.telemetry.tracing import describe_current, stage
from visionsplit.v1 import (
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    generation_pb2,
    llm_service_pb2,
    vision_tokens_pb2,
)
from visionsplit.wire.call_log import log_call
from visionsplit.wire.caller import Callers
from visionsplit.wire.messages import refuse_unknown_fields
from visionsplit.wire.request_id import request_id_of
from visionsplit.wire.tensors import DataType
from visionsplit.wire.vision_tokens import grid_to_proto, layout_to_proto

from encoder_service.admission import Admission
from encoder_service.compression import Composition, CompressionSpec, compose
from encoder_service.config import EncoderConfig
from encoder_service.events import ImageDone
from encoder_service.flight import ImageSource, TokensWanted
from encoder_service.gateways import LlmGateways
from encoder_service.llm_client import LlmCall, LlmClient
from encoder_service.metrics import EncoderMetrics
from encoder_service.observation import CallObserver
from encoder_service.pipeline import EncoderPipeline
from encoder_service.protocol import (
    asked_text,
    compression_from_proto,
    data_type_from_proto,
    prompt_text,
    summary_to_proto,
)
from encoder_service.relay import relay, to_parts
from encoder_service.text_tower import MAX_TEXT_BYTES
from encoder_service.upload import Part

_log = logging.getLogger(__name__)
_LLM_CALL = "visionsplit.v1.LlmService/Generate"  # the name of its span

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Request: TypeAlias = encoder_service_pb2.EncodeRequest | encoder_service_pb2.EncoderServiceGenerateRequest
_EncodeResponse = encoder_service_pb2.EncodeResponse


@dataclass(frozen=True)
class _Wanted:
    """The checked part of a request that both calls share."""

    composition: Composition
    data_type: DataType
    text: str | None  # that decides what is kept, where the composition reads one
    started: float  # seconds of time.monotonic
    caller: str  # callers take turns
    method: str  # the row of the table that the request names


class EncoderService(encoder_service_pb2_grpc.EncoderServiceServicer):
    """The servicer. Errors are raised as visionsplit's own; an interceptor gives them their status."""

    def __init__(
        self,
        config: EncoderConfig,
        pipeline: EncoderPipeline,
        info: encoder_service_pb2.GetEncoderInfoResponse,
        admission: Admission,
        llm: LlmGateways | None,
        telemetry: Telemetry,
        metrics: EncoderMetrics,
        callers: Callers,
        *,
        placeholder: str | None,
    ) -> None:
        """`placeholder` stands for an image in a finished prompt; None where no text tower reads prompts."""
        self._config = config
        self._pipeline = pipeline
        self._info = info
        self._admission = admission
        self._llm = llm
        self._tracer = telemetry.tracer
        self._metrics = metrics
        self._callers = callers
        self._placeholder = placeholder

    async def GetEncoderInfo(  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.GetEncoderInfoRequest, context: _Context
    ) -> encoder_service_pb2.GetEncoderInfoResponse:
        refuse_unknown_fields(request)
        return self._info

    # The stubs expect generators; these are coroutines that write, so that an error can still choose the status.

    async def Encode(  # type: ignore[override]  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.EncodeRequest, context: _Context
    ) -> None:
        request_id, caller = request_id_of(context), self._callers.of(context)
        with (
            log_call(_log, request_id, "Encode") as record,
            self._admission.call(caller, context.time_remaining()),
        ):
            describe_current(request_id=request_id)
            wanted = self._check(request, caller)
            observer = CallObserver(self._metrics, self._tracer, record, wanted.method)
            async with AsyncExitStack() as stack:
                images = await self._prepared([request.image], wanted, stack)
                async for part in await self._parts(images, wanted, stack):
                    if isinstance(part, ImageDone):
                        observer.image_done(part)
                    await context.write(self._encode_response(part, images[0], wanted))

    async def Generate(  # type: ignore[override]  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.EncoderServiceGenerateRequest, context: _Context
    ) -> None:
        request_id, caller = request_id_of(context), self._callers.of(context)
        with (
            log_call(_log, request_id, "Generate") as record,
            self._admission.call(caller, context.time_remaining()),
        ):
            describe_current(request_id=request_id)
            if self._config.telemetry.log_prompts:
                record.prompt = prompt_text(request.prompt)
            wanted = self._check(request, caller)
            observer = CallObserver(self._metrics, self._tracer, record, wanted.method)
            if self._llm is None:
                raise IncompatibleServicesError("this encoder has no LLM service; it only encodes")
            async with AsyncExitStack() as stack:
                images = await self._prepared(request.images, wanted, stack)
                stack.enter_context(stage(self._tracer, _LLM_CALL, kind=SpanKind.CLIENT))
                parts = await self._parts(images, wanted, stack)
                header = self._generate_header(request, images, wanted)

                def summarise(done: ImageDone) -> encoder_service_pb2.ImageSummary:
                    observer.image_done(done)
                    return summary_to_proto(done)

                def begin(client: LlmClient) -> LlmCall:
                    return client.generate(
                        timeout_seconds=context.time_remaining(), request_id=request_id, caller=caller
                    )

                await relay(self._llm, begin, header, parts, context.write, summarise, self._tracer)

    def _check(self, request: _Request, caller: str) -> _Wanted:
        """Refuse what is wrong before any work.

        Raises:
            InvalidRequestError: says what and where.
        """
        started = time.monotonic()
        refuse_unknown_fields(request)
        if isinstance(request, encoder_service_pb2.EncodeRequest):
            images: Sequence[encoder_service_pb2.Image] = [request.image]
        else:
            images = request.images
        if len(images) > self._config.max_images:
            raise InvalidRequestError(f"{len(images)} images; a request may have {self._config.max_images}")
        if request.HasField("compression"):
            spec = compression_from_proto(request.compression)
        else:
            spec = self._config.default_compression
        if spec.quotas_only and isinstance(request, encoder_service_pb2.EncoderServiceGenerateRequest):
            _check_someone_prunes(request.prefill)
        data_type = data_type_from_proto(request.data_type, DataType(self._info.default_data_type))
        composition = compose(spec)
        text = self._text(request, spec, composition) if composition.reads_text and images else None
        return _Wanted(composition, data_type, text, started, caller, spec.method)

    def _text(self, request: _Request, spec: CompressionSpec, composition: Composition) -> str:
        """The text by which tokens are kept.

        Raises:
            InvalidCompressionError: nobody here could read it, there is none, or it is too long.
            InvalidPromptError: the prompt has none.
        """
        name = composition.score.name
        if self._placeholder is None:
            raise InvalidCompressionError(
                f"score {name!r} looks at a text; this encoder has no text tower, which --text-tower would give it"
            )
        text = spec.guidance
        if text is None and isinstance(request, encoder_service_pb2.EncoderServiceGenerateRequest):
            text = asked_text(request.prompt, self._placeholder)
        if text is None:
            raise InvalidCompressionError(f"score {name!r} looks at a text; Encode has no prompt and needs guidance")
        if len(text.encode()) > MAX_TEXT_BYTES:
            what = "the prompt's text" if spec.guidance is None else "guidance"
            raise InvalidCompressionError(
                f"{what} has {len(text.encode())} bytes; score {name!r} reads {MAX_TEXT_BYTES} at most"
            )
        return text

    async def _prepared(
        self, images: Sequence[encoder_service_pb2.Image], wanted: _Wanted, stack: AsyncExitStack
    ) -> list[ImageSource]:
        """The images in tiles; leaving `stack` gives up the room that they take."""
        files = [image.data for image in images]
        asked = TokensWanted(wanted.composition, wanted.data_type, wanted.caller, wanted.text)
        return await stack.enter_async_context(self._pipeline.prepared(files, asked))

    async def _parts(
        self, images: list[ImageSource], wanted: _Wanted, stack: AsyncExitStack
    ) -> AsyncGenerator[Part, None]:
        """The messages of a request's images; leaving `stack` gives up what has not been encoded."""
        if not images:
            return _nothing()
        events = self._pipeline.encode(images, call_start=wanted.started)
        await stack.enter_async_context(aclosing(events))
        return await stack.enter_async_context(aclosing(to_parts(events, self._config.chunk_bytes)))

    def _encode_response(self, part: Part, image: ImageSource, wanted: _Wanted) -> _EncodeResponse:
        if isinstance(part, vision_tokens_pb2.ImageTokensHeader):
            header = encoder_service_pb2.EncodeHeader(
                grid=grid_to_proto(image.grid),
                tokens=part,
                format=self._info.format,
                layout=layout_to_proto(wanted.composition.layout),
            )
            return _EncodeResponse(header=header)
        if isinstance(part, vision_tokens_pb2.TokenChunk):
            return _EncodeResponse(tokens=part)
        return _EncodeResponse(summary=summary_to_proto(part))

    def _generate_header(
        self,
        request: encoder_service_pb2.EncoderServiceGenerateRequest,
        images: list[ImageSource],
        wanted: _Wanted,
    ) -> llm_service_pb2.GenerateHeader:
        return llm_service_pb2.GenerateHeader(
            prompt=request.prompt if request.HasField("prompt") else None,
            sampling=request.sampling if request.HasField("sampling") else None,
            grids=[grid_to_proto(image.grid) for image in images],
            format=self._info.format,
            layout=layout_to_proto(wanted.composition.layout),
            prefill=request.prefill if request.HasField("prefill") else None,
        )


def _check_someone_prunes(prefill: generation_pb2.Prefill) -> None:
    """Quotas say what pruning in the language model is to keep; whether its method takes them is the LLM service's to
    check."""
    if not prefill.HasField("pruning"):
        raise InvalidCompressionError(
            "quotas_only sends every token and leaves the choice to pruning in the language model; "
            "the request asks for no pruning"
        )


async def _nothing() -> AsyncGenerator[Part, None]:
    """The parts of a request without images."""
    return
    yield
