"""Reads a request's prompt."""

from visionsplit.errors import InvalidPromptError
from visionsplit.parameters import quoted
from visionsplit.v1 import generation_pb2

from llm_service.prompt import ChatPrompt, Prompt, TextPrompt, Turn

# Each turn and each part is an object in Python and a step of the chat template.
MAX_TURNS = 4096
MAX_PARTS = 4096  # of all turns together
MAX_ROLE_CHARACTERS = 64


def prompt_from_proto(message: generation_pb2.Prompt) -> Prompt:
    """The prompt's own form. Everything is counted before any of it is read.

    Raises:
        InvalidPromptError: neither form is given, a part of a turn is empty, or there are too many turns or parts.
    """
    form = message.WhichOneof("form")
    if form == "text":
        return TextPrompt(message.text)
    if form is None:
        raise InvalidPromptError("the request has no prompt")
    turns = message.chat.messages
    if len(turns) > MAX_TURNS:
        raise InvalidPromptError(f"the conversation has {len(turns)} turns; at most {MAX_TURNS} are accepted")
    num_parts = sum(len(turn.parts) for turn in turns)
    if num_parts > MAX_PARTS:
        raise InvalidPromptError(f"the conversation has {num_parts} parts; at most {MAX_PARTS} are accepted")
    return ChatPrompt(tuple(_turn(turn) for turn in turns))


def _turn(message: generation_pb2.ChatMessage) -> Turn:
    role = message.role
    if len(role) > MAX_ROLE_CHARACTERS:
        raise InvalidPromptError(
            f"role {quoted(role)} has {len(role)} characters; at most {MAX_ROLE_CHARACTERS} are accepted"
        )
    parts: list[str | None] = []
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind is None:
            raise InvalidPromptError(f"a part of a {quoted(role)} turn has neither text nor image")
        parts.append(part.text if kind == "text" else None)
    return Turn(role, tuple(parts))
