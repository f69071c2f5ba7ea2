"""EncoderService as the protocol describes it: checks requests, runs the pipeline, relays the LLM service's text."""

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc.aio
from opentelemetry.trace import SpanKind, Tracer
from visionsplit.errors import IncompatibleServicesError
from visionsplit.options.messages import layout_to_proto
from visionsplit.serving.call_log import MAX_PROMPT_CHARACTERS, log_call
from visionsplit.serving.caller import Callers
from visionsplit.serving.sending import send
from visionsplit.telemetry.tracing import describe_current, stage
from visionsplit.v1 import (
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    llm_service_pb2,
    vision_tokens_pb2,
)
from visionsplit.wire.request_id import request_id_of
from visionsplit.wire.vision_tokens import grid_to_proto

from encoder_service.api.call_admission import Admission
from encoder_service.api.messages import prompt_text
from encoder_service.api.observer import CallObserver
from encoder_service.api.parts import to_parts
from encoder_service.api.request import CheckedRequest, RequestChecker
from encoder_service.config import EncoderConfig
from encoder_service.llm.client import LlmCall, LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoints
from encoder_service.llm.outbox import Outbox
from encoder_service.llm.relay import relay
from encoder_service.llm.replay import Part
from encoder_service.metrics import EncoderMetrics
from encoder_service.pipeline.pipeline import EncoderPipeline
from encoder_service.pipeline.shared_encoding import ImageSource, TokensWanted

_log = logging.getLogger(__name__)
_LLM_CALL = "visionsplit.v1.LlmService/Generate"  # the name of its span

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_EncodeResponse = encoder_service_pb2.EncodeResponse
_GenerateResponse = encoder_service_pb2.EncoderServiceGenerateResponse


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderService(encoder_service_pb2_grpc.EncoderServiceServicer):
    """The servicer. It raises visionsplit's exceptions, which an interceptor maps to statuses."""

    config: EncoderConfig
    pipeline: EncoderPipeline
    info: encoder_service_pb2.GetEncoderInfoResponse
    admission: Admission
    llm: LlmEndpoints | None
    tracer: Tracer
    metrics: EncoderMetrics
    callers: Callers
    checker: RequestChecker

    async def GetEncoderInfo(  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.GetEncoderInfoRequest, context: _Context
    ) -> encoder_service_pb2.GetEncoderInfoResponse:
        return self.info

    # The stubs expect generators; these are coroutines that write, so that an error can still choose the status.

    async def Encode(  # type: ignore[override]  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.EncodeRequest, context: _Context
    ) -> None:
        request_id, caller = request_id_of(context), self.callers.of(context)
        with (
            log_call(_log, request_id, "Encode") as record,
            self.admission.call(caller),
        ):
            describe_current(request_id=request_id)
            wanted = self.checker.check(request, caller)
            observer = CallObserver(self.metrics, self.tracer, record, wanted.method)
            async with AsyncExitStack() as stack:
                images = await self._prepared([request.image], wanted, context, stack)
                async for part in await self._parts(images, wanted, observer, stack):
                    await send(context, self._encode_response(part, images[0], wanted))

    async def Generate(  # type: ignore[override]  # noqa: N802 - the protocol's name
        self, request: encoder_service_pb2.EncoderServiceGenerateRequest, context: _Context
    ) -> None:
        request_id, caller = request_id_of(context), self.callers.of(context)
        with (
            log_call(_log, request_id, "Generate") as record,
            self.admission.call(caller),
        ):
            describe_current(request_id=request_id)
            if self.config.telemetry.log_prompts:
                record.prompt = prompt_text(request.prompt, MAX_PROMPT_CHARACTERS)
            wanted = self.checker.check(request, caller)
            observer = CallObserver(self.metrics, self.tracer, record, wanted.method)
            if self.llm is None:
                raise IncompatibleServicesError("this encoder has no LLM service; it only encodes")
            outbox: Outbox[_GenerateResponse] = Outbox(partial(send, context))
            # Outside everything else that the call holds: the queue's measure must not see a caller that does not read.
            async with outbox.open(), AsyncExitStack() as stack:
                answered = stack.enter_context(self.admission.answers.call(caller, context.time_remaining()))
                images = await self._prepared(request.images, wanted, context, stack)
                stack.enter_context(stage(self.tracer, _LLM_CALL, kind=SpanKind.CLIENT))
                parts = await self._parts(images, wanted, observer, stack)
                header = self._generate_header(request, images, wanted)

                def begin(client: LlmClient) -> LlmCall:
                    return client.generate(
                        timeout_seconds=context.time_remaining(), request_id=request_id, caller=caller
                    )

                await relay(self.llm, begin, header, parts, outbox, answered, self.tracer)

    async def _prepared(
        self,
        images: Sequence[encoder_service_pb2.Image],
        wanted: CheckedRequest,
        context: _Context,
        stack: AsyncExitStack,
    ) -> list[ImageSource]:
        """The images as tiles; leaving `stack` releases the capacity that they take."""
        files = [image.data for image in images]
        remaining = context.time_remaining()
        deadline = None if remaining is None else time.monotonic() + remaining
        asked = TokensWanted(wanted.composition, wanted.data_type, wanted.caller, wanted.text, deadline=deadline)
        return await stack.enter_async_context(self.pipeline.prepared(files, asked))

    async def _parts(
        self, images: list[ImageSource], wanted: CheckedRequest, observer: CallObserver, stack: AsyncExitStack
    ) -> AsyncGenerator[Part, None]:
        """The messages of a request's images; leaving `stack` cancels what has not been encoded."""
        if not images:
            return _nothing()
        events = self.pipeline.encode(images, call_start=wanted.started, on_image_done=observer.image_done)
        await stack.enter_async_context(aclosing(events))
        parts = to_parts(events, chunk_bytes=self.config.chunk_bytes, feature_size=self.info.format.feature_size)
        return await stack.enter_async_context(aclosing(parts))

    def _encode_response(self, part: Part, image: ImageSource, wanted: CheckedRequest) -> _EncodeResponse:
        if isinstance(part, vision_tokens_pb2.ImageTokensHeader):
            header = encoder_service_pb2.EncodeHeader(
                grid=grid_to_proto(image.grid),
                tokens=part,
                format=self.info.format,
                layout=layout_to_proto(wanted.composition.layout),
            )
            return _EncodeResponse(header=header)
        if isinstance(part, vision_tokens_pb2.TokenChunk):
            return _EncodeResponse(tokens=part)
        return _EncodeResponse(summary=part)

    def _generate_header(
        self,
        request: encoder_service_pb2.EncoderServiceGenerateRequest,
        images: list[ImageSource],
        wanted: CheckedRequest,
    ) -> llm_service_pb2.GenerateHeader:
        return llm_service_pb2.GenerateHeader(
            prompt=request.prompt if request.HasField("prompt") else None,
            sampling=request.sampling if request.HasField("sampling") else None,
            grids=[grid_to_proto(image.grid) for image in images],
            format=self.info.format,
            layout=layout_to_proto(wanted.composition.layout),
            prefill=request.prefill if request.HasField("prefill") else None,
        )


async def _nothing() -> AsyncGenerator[Part, None]:
    """The parts of a request without images."""
    return
    yield
