"""Reads a request's prompt."""

from visionsplit.errors import InvalidPromptError
from visionsplit.options.parameters import quoted
from visionsplit.v1 import generation_pb2

from llm_service.prompts.prompt import ChatPrompt, Prompt, TextPrompt, Turn


def prompt_from_proto(message: generation_pb2.Prompt) -> Prompt:
    """The prompt's own form; `check_prompt_message` has counted what is in it.

    Raises:
        InvalidPromptError: neither form is given, or a part of a turn is empty.
    """
    form = message.WhichOneof("form")
    if form == "text":
        return TextPrompt(message.text)
    if form is None:
        raise InvalidPromptError("the request has no prompt")
    return ChatPrompt(tuple(_turn(turn) for turn in message.chat.messages))


def _turn(message: generation_pb2.ChatMessage) -> Turn:
    parts: list[str | None] = []
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind is None:
            raise InvalidPromptError(f"a part of a {quoted(message.role)} turn has neither text nor image")
        parts.append(part.text if kind == "text" else None)
    return Turn(message.role, tuple(parts))
