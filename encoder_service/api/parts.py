"""Converts the events of a request's images to messages of the protocol."""

from collections.abc import AsyncGenerator, AsyncIterator

from visionsplit.v1 import vision_tokens_pb2
from visionsplit.wire.vision_tokens import split_into_chunks

from encoder_service.api.messages import summary_to_proto
from encoder_service.llm.replay import Part
from encoder_service.pipeline.events import BudgetsKnown, Event, TokensReady


async def to_parts(events: AsyncIterator[Event], *, chunk_bytes: int, feature_size: int) -> AsyncGenerator[Part, None]:
    """Each image's header, its tokens in chunks that are numbered per image, and its summary.

    `feature_size` is the format's: a header says where its image's tokens have another.
    """
    next_chunk: dict[int, int] = {}
    async for event in events:
        if isinstance(event, BudgetsKnown):
            next_chunk[event.image_index] = 0
            yield vision_tokens_pb2.ImageTokensHeader(
                image_index=event.image_index,
                budgets=event.budgets,
                quotas=event.quotas,
                feature_size=0 if event.feature_size == feature_size else event.feature_size,
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
            yield summary_to_proto(event)
