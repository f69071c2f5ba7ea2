"""From encoded images to the LLM service's text: the upload and the answer of one Generate call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import split_into_chunks

from encoder_service.llm_client import LlmCall
from encoder_service.pipeline import BudgetsKnown, Event, ImageDone, TokensReady

Part: TypeAlias = vision_tokens_pb2.ImageTokensHeader | vision_tokens_pb2.TokenChunk | ImageDone
_Response = encoder_service_pb2.EncoderServiceGenerateResponse
_Write: TypeAlias = Callable[[_Response], Awaitable[None]]


async def to_parts(events: AsyncIterator[Event], chunk_bytes: int) -> AsyncGenerator[Part, None]:
    """The pipeline's events as the protocol's messages: tokens cut into chunks, numbered per image."""
    next_chunk: dict[int, int] = {}
    async for event in events:
        if isinstance(event, BudgetsKnown):
            next_chunk[event.image_index] = 0
            yield vision_tokens_pb2.ImageTokensHeader(
                image_index=event.image_index, budgets=event.budgets, quotas=event.quotas
            )
        elif isinstance(event, TokensReady):
            chunks = split_into_chunks(
                event.features,
                event.positions,
                image_index=event.image_index,
                first_chunk=next_chunk[event.image_index],
                chunk_bytes=chunk_bytes,
            )
            for chunk in chunks:
                next_chunk[event.image_index] += 1
                yield chunk
        else:
            yield event


async def relay(
    call: LlmCall,
    header: llm_service_pb2.GenerateHeader,
    parts: AsyncIterator[Part],
    write: _Write,
    summarise: Callable[[ImageDone], encoder_service_pb2.ImageSummary],
) -> None:
    """Upload the parts, then pass the answer on through `write`. The caller cancels the call afterwards.

    Raises:
        VisionSplitError: of the encoder or, in its own class, of the LLM service.
    """
    await _unless_ended(call, _upload(call, header, parts, write, summarise))
    async with aclosing(call.events()) as events:
        async for event in events:
            if isinstance(event, generation_pb2.TextDelta):
                await write(_Response(delta=event))
            else:
                await write(_Response(summary=event))


async def _upload(
    call: LlmCall,
    header: llm_service_pb2.GenerateHeader,
    parts: AsyncIterator[Part],
    write: _Write,
    summarise: Callable[[ImageDone], encoder_service_pb2.ImageSummary],
) -> None:
    await call.send_header(header)
    async for part in parts:
        if isinstance(part, vision_tokens_pb2.ImageTokensHeader):
            await call.send_image(part)
        elif isinstance(part, vision_tokens_pb2.TokenChunk):
            await call.send_tokens(part)
        else:
            await write(_Response(image=summarise(part)))
    await call.finish_upload()


async def _unless_ended(call: LlmCall, upload: Awaitable[None]) -> None:
    """Run the upload, but give it up, and with it the encoding, as soon as the LLM service has ended the call."""
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
