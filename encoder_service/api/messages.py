"""Requests and events as the protocol's messages, and back."""

from collections.abc import Iterator

from visionsplit.errors import InvalidPromptError
from visionsplit.v1 import encoder_service_pb2, generation_pb2
from visionsplit.wire.vision_tokens import grid_to_proto

from encoder_service.caching.tokens import CacheUse
from encoder_service.pipeline.events import ImageDone

_CACHE: dict[CacheUse, encoder_service_pb2.Cache.ValueType] = {
    CacheUse.OFF: encoder_service_pb2.CACHE_UNSPECIFIED,
    CacheUse.MISS: encoder_service_pb2.CACHE_MISS,
    CacheUse.MEMORY: encoder_service_pb2.CACHE_MEMORY,
    CacheUse.DISK: encoder_service_pb2.CACHE_DISK,
}


def asked_text(prompt: generation_pb2.Prompt, placeholder: str) -> str:
    """What a prompt asks: the text of a conversation's last user turn; of a finished prompt all but the placeholders.

    Raises:
        InvalidPromptError: there is no prompt, or no such text in it.
    """
    match prompt.WhichOneof("form"):
        case "text":
            text = prompt.text.replace(placeholder, " ")
        case "chat":
            turns = [turn for turn in prompt.chat.messages if turn.role == "user"]
            text = "\n".join(part.text for part in (turns[-1].parts if turns else ()) if part.HasField("text"))
        case _:
            raise InvalidPromptError("the request has no prompt")
    if not text.strip():
        raise InvalidPromptError("the prompt has no text by which tokens could be kept; give the compression guidance")
    return text


def prompt_text(prompt: generation_pb2.Prompt, most: int) -> str:
    """A request's question as one text of up to `most` characters, for the log."""
    if prompt.WhichOneof("form") != "chat":
        return prompt.text[:most]
    text = ""
    for piece in _pieces(prompt.chat):
        text += piece
        if len(text) >= most:  # the conversation may be of any length
            break
    return text[:most]


def _pieces(chat: generation_pb2.Chat) -> Iterator[str]:
    for turn in chat.messages:
        yield f"{turn.role}: "
        yield from (part.text if part.HasField("text") else "<image>" for part in turn.parts)
        yield "\n"


def summary_to_proto(done: ImageDone) -> encoder_service_pb2.ImageSummary:
    return encoder_service_pb2.ImageSummary(
        image_index=done.image_index,
        grid=grid_to_proto(done.grid),
        budgets=done.budgets,
        tokens_before=sum(done.grid.valid_counts()),
        tokens_after=sum(done.budgets),
        wire_bytes=done.wire_bytes,
        timings=encoder_service_pb2.EncodeTimings(
            preprocess_seconds=done.preprocess_seconds,
            queue_seconds=done.queue_seconds,
            encode_seconds=done.encode_seconds,
            first_chunk_seconds=done.first_chunk_seconds,
            total_seconds=done.total_seconds,
        ),
        cache=_CACHE[done.cache],
    )
