"""The servicer of LlmService: passes checked requests to a backend, and its tokens back as text."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, aclosing, suppress
from dataclasses import dataclass

import grpc.aio
import visionsplit
from opentelemetry.trace import Tracer
from visionsplit.errors import CancelledError, OverloadedError, VisionSplitError
from visionsplit.serving.call_log import MAX_PROMPT_CHARACTERS, CallRecord, log_call
from visionsplit.serving.caller import Callers
from visionsplit.serving.sending import send
from visionsplit.telemetry.tracing import carrier_of, describe_current, stage
from visionsplit.v1 import generation_pb2, llm_service_pb2, llm_service_pb2_grpc, vision_tokens_pb2
from visionsplit.wire.request_id import request_id_of

from llm_service.backends.base import Backend
from llm_service.gateway.accepted import Accepted
from llm_service.gateway.call_admission import Admission
from llm_service.gateway.call_clock import CallClock
from llm_service.gateway.messages import pruning_methods_to_proto
from llm_service.gateway.metrics import LlmMetrics
from llm_service.gateway.prefill import CheckedPrefill
from llm_service.gateway.receiver import Upload, UploadReceiver
from llm_service.job import Job, ReplicaInfo
from llm_service.prompts.detokenizer import Detokenizer, StopStrings
from llm_service.prompts.prompt import PromptEncoder

_log = logging.getLogger(__name__)

_DISCARD_SECONDS = 1.0
_OVERLOADED_IDLE_SECONDS = 0.05
# Of all calls together. Each event is a message to send and, from a replica on Ray, one to receive. With more calls,
# each gets its tokens in larger groups, so that the gateway has time for requests however many tokens are decoded.
_EVENTS_PER_SECOND = 1000

Request = llm_service_pb2.LlmServiceGenerateRequest
Response = llm_service_pb2.LlmServiceGenerateResponse
GenerateContext = grpc.aio.ServicerContext[Request, Response]


@dataclass(frozen=True, eq=False, kw_only=True)
class LlmGateway(llm_service_pb2_grpc.LlmServiceServicer):
    """Implements the protocol: upload, prompt, text, stop strings, usage and timings. Tokens come from the backend."""

    model: str  # the checkpoint's name
    backend: Backend
    replica: ReplicaInfo
    accepted: Accepted
    admission: Admission
    callers: Callers
    prompts: PromptEncoder
    receiver: UploadReceiver
    end_ids: frozenset[int]
    metrics: LlmMetrics
    tracer: Tracer
    log_prompts: bool

    # Not a generator, as the stub would have it: with the write API a cancel always reaches the backend.
    async def Generate(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[Request], context: GenerateContext
    ) -> None:
        clock = CallClock(time.monotonic(), self.metrics)
        request_id, caller = request_id_of(context), self.callers.of(context)
        with (
            log_call(_log, request_id, "Generate") as record,
            self.admission.gate.inside(),
            ExitStack() as held,
        ):
            describe_current(request_id=request_id)
            with stage(self.tracer, "receive"):
                upload = await self._receive(request_iterator, caller, context, held)
            clock.upload_done(upload)
            self._describe(upload, record)
            job = Job(
                request_id,
                upload.token_ids,
                upload.images,
                upload.layout,
                upload.sampling,
                pruning=upload.prefill.pruning,
                position_ids=upload.prefill.position_ids,
                caller=str(caller),
                pause_seconds=self.admission.places.active / _EVENTS_PER_SECOND,
                trace_context=carrier_of(),
            )
            generated = await self._answer(job, upload, clock, context)
            record.fields["generated_tokens"] = generated
            describe_current(generated_tokens=generated, seconds_to_first_token=clock.first_token - clock.started)
            record.outcome = f"done, {upload.counts.prompt} prompt tokens, {generated} generated"

    async def GetLlmInfo(  # noqa: N802
        self,
        request: llm_service_pb2.GetLlmInfoRequest,
        context: grpc.aio.ServicerContext[llm_service_pb2.GetLlmInfoRequest, llm_service_pb2.GetLlmInfoResponse],
    ) -> llm_service_pb2.GetLlmInfoResponse:
        accepted = self.accepted
        return llm_service_pb2.GetLlmInfoResponse(
            model=self.model,
            format=vision_tokens_pb2.VisionFormat(
                feature_size=accepted.feature_size,
                encoder_fingerprint=accepted.encoder_fingerprint,
                family=accepted.family.name,
            ),
            context_length=accepted.context_length,
            image_placeholder=self.prompts.placeholder,
            default_max_new_tokens=accepted.limits.default_max_new_tokens,
            max_new_tokens=accepted.context_length - 1,
            max_images=accepted.limits.max_images,
            backend=self.backend.name,
            replicas=await self.backend.num_replicas(),
            engine=self.replica.engine,
            device=self.replica.device,
            version=visionsplit.__version__,
            pruning_methods=pruning_methods_to_proto(supported=accepted.takes_layers_apart),
        )

    async def _receive(
        self, stream: AsyncIterator[Request], caller: str, context: GenerateContext, held: ExitStack
    ) -> Upload:
        """Receive the whole upload; `held` keeps the memory of its tokens, and after its end the call's place."""
        admission = self.admission

        def admit(prefill: CheckedPrefill, num_images: int) -> None:
            admission.check(admission.line(prefill, num_images), caller, context.time_remaining())

        try:
            reception = held.enter_context(admission.uploads.call(caller))
            async with reception.receiving():
                upload = await self.receiver.receive(stream, caller, reception, admit)
            # Checked again: other calls may have become complete in the meantime.
            admit(upload.prefill, len(upload.images))
            held.enter_context(admission.places.call(caller))
            return upload
        except OverloadedError:
            # The encoder continues encoding for this call until it learns of the error.
            await _discard(stream, idle_seconds=_OVERLOADED_IDLE_SECONDS)
            raise
        except VisionSplitError:
            await _discard(stream)
            raise

    async def _answer(self, job: Job, upload: Upload, clock: CallClock, context: GenerateContext) -> int:
        """Send the answer; return the number of its tokens."""
        detokenizer = Detokenizer(self.prompts.tokenizer)
        stop = StopStrings(upload.sampling.stop)
        generated, ended = 0, False
        layer_tokens: tuple[int, ...] = ()
        async with AsyncExitStack() as waiting, aclosing(self.backend.generate(job)) as events:
            line = self.admission.line(upload.prefill, len(upload.images))
            await waiting.enter_async_context(line.turn(job.caller))
            clock.passed_on()
            async for event in events:
                await waiting.aclose()  # with its first token the call leaves the queue
                clock.note(event)
                generated += len(event.token_ids)
                layer_tokens = layer_tokens or event.layer_tokens or ()
                ended = not self.end_ids.isdisjoint(event.token_ids)
                text = stop.add(detokenizer.add(event.token_ids))
                if event.finished and not stop.reached:
                    text += stop.add(detokenizer.finish())
                    text += stop.finish()
                delta = generation_pb2.TextDelta(text=text, token_ids=event.token_ids)
                await _send(context, Response(delta=delta))
                if stop.reached:
                    break
        clock.answered()
        stopped = ended or stop.reached
        summary = generation_pb2.GenerationSummary(
            finish_reason=(generation_pb2.FINISH_REASON_STOP if stopped else generation_pb2.FINISH_REASON_LENGTH),
            usage=_usage(upload, generated),
            timings=clock.timings(),
            layer_tokens=layer_tokens,
        )
        await _send(context, Response(summary=summary))
        return generated

    def _describe(self, upload: Upload, record: CallRecord) -> None:
        """Describe the upload in the call's trace and log line."""
        counts = upload.counts
        numbers: dict[str, str | int | float] = {
            "images": len(upload.images),
            "prompt_tokens": counts.prompt,
            "tokens_before": upload.vision_tokens_before,
            "tokens_after": counts.vision,
            "wire_bytes": upload.wire_bytes,
        }
        record.fields.update(numbers)
        describe_current(**numbers)
        if self.log_prompts:
            # The log line shows only its beginning.
            record.prompt = self.prompts.tokenizer.decode(list(upload.token_ids[:MAX_PROMPT_CHARACTERS]))


async def _send(context: GenerateContext, response: Response) -> None:
    try:
        await send(context, response)
    except grpc.aio.InternalError as error:
        # The only text of grpc's error when the call has ended during a write.
        raise CancelledError("the caller went away") from error


async def _discard(stream: AsyncIterator[Request], *, idle_seconds: float = _DISCARD_SECONDS) -> None:
    """Read messages still in transit: otherwise a client that is writing may see a failed write, not the status."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            arrived = True
            while arrived:
                async with asyncio.timeout(idle_seconds):
                    with suppress(VisionSplitError):  # the call has its error already
                        arrived = await anext(stream, None) is not None


def _usage(upload: Upload, generated: int) -> generation_pb2.Usage:
    counts = upload.counts
    return generation_pb2.Usage(
        prompt_tokens=counts.prompt,
        text_tokens=counts.text,
        vision_tokens=counts.vision,
        newline_tokens=counts.newlines,
        vision_tokens_before=upload.vision_tokens_before,
        generated_tokens=generated,
        wire_bytes=upload.wire_bytes,
    )
