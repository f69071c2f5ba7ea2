"""Uploads one Generate call's encoded images to the LLM service, and relays the answer's text."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from opentelemetry.trace import Tracer
from visionsplit.errors import OverloadedError, UnavailableError, VisionSplitError
from visionsplit.network.transport import MIB
from visionsplit.telemetry.tracing import stage
from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2, vision_tokens_pb2

from encoder_service.llm.client import LlmCall, LlmClient
from encoder_service.llm.endpoint_selection import LlmEndpoint, LlmEndpoints
from encoder_service.llm.outbox import Outbox
from encoder_service.llm.replay import Part, Upload

_log = logging.getLogger(__name__)

_KEEP_BYTES = 16 * MIB  # of one call's tokens, until its answer starts: some images uncompressed, dozens compressed
_Request = llm_service_pb2.LlmServiceGenerateRequest
_Response = encoder_service_pb2.EncoderServiceGenerateResponse


async def relay(
    endpoints: LlmEndpoints,
    begin: Callable[[LlmClient], LlmCall],
    header: llm_service_pb2.GenerateHeader,
    parts: AsyncGenerator[Part, None],
    outbox: Outbox[_Response],
    answered: Callable[[], None],
    tracer: Tracer,
) -> None:
    """Upload the parts to an LLM service, then tell `answered` of its first text. The images' summaries and the text go
    to the caller through `outbox`.

    Where there are several services, and one is lost or refuses for the moment before anything of its answer was passed
    on, another gets the upload from its beginning, once.

    Raises:
        VisionSplitError: of the encoder or, in its own class, of the LLM service.
    """
    upload = Upload(parts, keep_bytes=_KEEP_BYTES if len(endpoints) > 1 else 0)
    before: LlmEndpoint | None = None  # that was asked in vain
    try:
        while True:
            endpoint = await endpoints.pick(but=before)
            try:
                with endpoint.call(begin) as call:
                    await _ask(call, header, upload, outbox, answered, tracer)
                endpoint.succeeded()
                return
            except VisionSplitError as error:
                lost = isinstance(error, UnavailableError)
                if upload.failed or not (lost or _is_momentary(error)):
                    raise
                if lost:
                    endpoint.failed()
                if before is not None or not upload.repeatable:
                    raise
                _log.warning("LLM service %s did not serve a call, another is asked: %s", endpoint.address, error)
                before = endpoint
    finally:
        await upload.close()


def _is_momentary(error: VisionSplitError) -> bool:
    """Whether another service may have room now. What exceeds a limit by itself would be refused there too."""
    return isinstance(error, OverloadedError) and error.retry_after_seconds is not None


async def _ask(
    call: LlmCall,
    header: llm_service_pb2.GenerateHeader,
    upload: Upload,
    outbox: Outbox[_Response],
    answered: Callable[[], None],
    tracer: Tracer,
) -> None:
    """One call, to its end."""
    with stage(tracer, "upload"):
        await _unless_ended(call, _send(call, header, upload, outbox))
    with stage(tracer, "relay"):
        async with aclosing(call.events()) as events:
            async for event in events:
                answered()
                upload.forget()  # what the caller has seen of an answer cannot be taken back
                if isinstance(event, generation_pb2.TextDelta):
                    await outbox.send(_Response(delta=event))
                else:
                    await outbox.send(_Response(summary=event))


async def _send(
    call: LlmCall, header: llm_service_pb2.GenerateHeader, upload: Upload, outbox: Outbox[_Response]
) -> None:
    await call.send(_Request(header=header))
    async with aclosing(upload.parts()) as parts:
        async for part in parts:
            if isinstance(part, vision_tokens_pb2.ImageTokensHeader):
                await call.send(_Request(image=part))
            elif isinstance(part, vision_tokens_pb2.TokenChunk):
                await call.send(_Request(tokens=part))
            else:
                # Not awaited: a caller that does not read must not hold up the upload, for which the LLM service waits.
                outbox.put(_Response(image=part))
    await call.finish_upload()


async def _unless_ended(call: LlmCall, upload: Awaitable[None]) -> None:
    """Run the upload, but cancel it, and with it the encoding, as soon as the LLM service has ended the call."""
    uploading = asyncio.ensure_future(upload)
    ended = asyncio.ensure_future(call.ended())
    try:
        await asyncio.wait({uploading, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not uploading.done():
            raise await call.failure()
        uploading.result()
    finally:
        uploading.cancel()
        ended.cancel()
        await asyncio.gather(uploading, ended, return_exceptions=True)
