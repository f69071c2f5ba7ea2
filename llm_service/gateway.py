"""The servicer: checked requests to a backend, its tokens back as text."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass

import grpc.aio
import visionsplit
from visionsplit.errors import CancelledError, OverloadedError, UnavailableError, VisionSplitError
from visionsplit.v1 import generation_pb2, llm_service_pb2, llm_service_pb2_grpc, vision_tokens_pb2
from visionsplit.wire.call_log import log_call
from visionsplit.wire.messages import refuse_unknown_fields
from visionsplit.wire.request_id import request_id_of

from llm_service.accepted import Accepted
from llm_service.backends.base import Backend
from llm_service.job import Job, TokenEvent
from llm_service.prefill import pruning_methods_to_proto
from llm_service.prompt import PromptEncoder
from llm_service.replica import ReplicaInfo
from llm_service.text import Detokenizer, StopStrings
from llm_service.upload import Upload, UploadReceiver

_log = logging.getLogger(__name__)

_DISCARD_SECONDS = 1.0

Request = llm_service_pb2.LlmServiceGenerateRequest
Response = llm_service_pb2.LlmServiceGenerateResponse
GenerateContext = grpc.aio.ServicerContext[Request, Response]


@dataclass
class CallClock:
    """Moments of one call, in seconds of time.monotonic()."""

    started: float
    received: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    queue_seconds: float = 0.0

    def note(self, event: TokenEvent) -> None:
        """An event of the replica has arrived."""
        self.last_token = time.monotonic()
        if not self.first_token:
            self.first_token = self.last_token
            self.queue_seconds = event.queue_seconds

    def timings(self) -> generation_pb2.LlmTimings:
        return generation_pb2.LlmTimings(
            receive_seconds=self.received - self.started,
            queue_seconds=self.queue_seconds,
            first_token_seconds=self.first_token - self.started,
            decode_seconds=self.last_token - self.first_token,
            total_seconds=time.monotonic() - self.started,
        )


class LlmGateway(llm_service_pb2_grpc.LlmServiceServicer):
    """Owns the protocol: upload, prompt, text, stop strings, usage and timings. Tokens come from the backend."""

    def __init__(
        self,
        *,
        model: str,
        backend: Backend,
        replica: ReplicaInfo,
        accepted: Accepted,
        prompts: PromptEncoder,
        end_ids: tuple[int, ...],
    ) -> None:
        self._model = model
        self._backend = backend
        self._replica = replica
        self._accepted = accepted
        self._prompts = prompts
        self._end_ids = frozenset(end_ids)
        self._limits = accepted.limits
        self._receiver = UploadReceiver(accepted, prompts)
        self._uploads = 0
        self._calls = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    async def idle(self) -> None:
        """Wait until no request runs."""
        await self._idle.wait()

    # Not a generator, as the stub would have it: with the write API a cancel always reaches the backend.
    async def Generate(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[Request], context: GenerateContext
    ) -> None:
        clock = CallClock(time.monotonic())
        request_id = request_id_of(context)
        with self._running(), log_call(_log, request_id) as record:
            if self._draining:
                raise UnavailableError("the service is stopping")
            upload = await self._receive(request_iterator)
            clock.received = time.monotonic()
            job = Job(
                request_id,
                upload.token_ids,
                upload.images,
                upload.layout,
                upload.decoding.options,
                pruning=upload.prefill.pruning,
                position_ids=upload.prefill.position_ids,
            )
            generated = await self._answer(job, upload, clock, context)
            record.outcome = f"done, {upload.counts.prompt} prompt tokens, {generated} generated"

    async def GetLlmInfo(  # noqa: N802
        self,
        request: llm_service_pb2.GetLlmInfoRequest,
        context: grpc.aio.ServicerContext[llm_service_pb2.GetLlmInfoRequest, llm_service_pb2.GetLlmInfoResponse],
    ) -> llm_service_pb2.GetLlmInfoResponse:
        refuse_unknown_fields(request)
        accepted = self._accepted
        return llm_service_pb2.GetLlmInfoResponse(
            model=self._model,
            format=vision_tokens_pb2.VisionFormat(
                feature_size=accepted.feature_size, encoder_fingerprint=accepted.encoder_fingerprint
            ),
            context_length=accepted.context_length,
            image_placeholder=self._prompts.placeholder,
            default_max_new_tokens=self._limits.default_max_new_tokens,
            max_new_tokens=accepted.context_length - 1,
            max_images=self._limits.max_images,
            backend=self._backend.name,
            replicas=await self._backend.num_replicas(),
            engine=self._replica.engine,
            device=self._replica.device,
            version=visionsplit.__version__,
            pruning_methods=pruning_methods_to_proto(accepted),
        )

    async def _receive(self, stream: AsyncIterator[Request]) -> Upload:
        try:
            with self._uploading():
                return await self._receiver.receive(stream)
        except VisionSplitError:
            await _discard(stream)
            raise

    async def _answer(self, job: Job, upload: Upload, clock: CallClock, context: GenerateContext) -> int:
        """Send the answer; returns the number of its tokens."""
        detokenizer = Detokenizer(self._prompts.tokenizer)
        stop = StopStrings(upload.decoding.stop)
        generated, ended = 0, False
        layer_tokens: tuple[int, ...] = ()
        async with aclosing(self._backend.generate(job)) as events:
            async for event in events:
                clock.note(event)
                generated += len(event.token_ids)
                layer_tokens = layer_tokens or event.layer_tokens or ()
                ended = not self._end_ids.isdisjoint(event.token_ids)
                text = stop.add(detokenizer.add(event.token_ids))
                if event.finished and not stop.reached:
                    text += stop.add(detokenizer.finish())
                    text += stop.finish()
                delta = generation_pb2.TextDelta(text=text, token_ids=event.token_ids)
                await _send(context, Response(delta=delta))
                if stop.reached:
                    break
        stopped = ended or stop.reached
        summary = generation_pb2.GenerationSummary(
            finish_reason=(generation_pb2.FINISH_REASON_STOP if stopped else generation_pb2.FINISH_REASON_LENGTH),
            usage=_usage(upload, generated),
            timings=clock.timings(),
            layer_tokens=layer_tokens,
        )
        await _send(context, Response(summary=summary))
        return generated

    @contextmanager
    def _running(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    @contextmanager
    def _uploading(self) -> Iterator[None]:
        if self._uploads >= self._limits.max_uploads:
            raise OverloadedError(f"{self._uploads} requests are being received already")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1


async def _send(context: GenerateContext, response: Response) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError as error:
        # All that grpc says when the call has ended in the middle of a write.
        raise CancelledError("the caller went away") from error


async def _discard(stream: AsyncIterator[Request]) -> None:
    """Read what is still on its way: a client in the middle of a write may see its failure instead of our status."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            async for _ in stream:
                pass


def _usage(upload: Upload, generated: int) -> generation_pb2.Usage:
    counts = upload.counts
    return generation_pb2.Usage(
        prompt_tokens=counts.prompt,
        text_tokens=counts.text,
        vision_tokens=counts.vision,
        newline_tokens=counts.newlines,
        vision_tokens_before=sum(sum(image.grid.valid_counts()) for image in upload.images),
        generated_tokens=generated,
        wire_bytes=sum(image.num_bytes for image in upload.images),
    )
