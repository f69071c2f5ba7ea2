"""Converts a request's prompt from its message, and pruning methods to messages."""

from visionsplit.errors import InvalidPromptError
from visionsplit.options.parameters import quoted
from visionsplit.v1 import choice_pb2, generation_pb2

from llm_service.prompts.prompt import ChatPrompt, Prompt, TextPrompt, Turn
from llm_service.pruning import PRUNING_METHODS


def prompt_from_proto(message: generation_pb2.Prompt) -> Prompt:
    """Convert a prompt, after `check_prompt_message` has limited its parts.

    Raises:
        InvalidPromptError: neither form is given, or a part of a turn is empty.
    """
    form = message.WhichOneof("form")
    if form == "text":
        return TextPrompt(message.text)
    if form is None:
        raise InvalidPromptError("the request has no prompt")
    return ChatPrompt(tuple(_turn(turn) for turn in message.chat.messages))


def pruning_methods_to_proto(*, supported: bool) -> list[choice_pb2.NamedChoice]:
    """The methods that a request may name; empty if the language model does not support pruning."""
    if not supported:
        return []
    return [
        choice_pb2.NamedChoice(
            name=method.name,
            description=method.description,
            parameters={name: parameter.default for name, parameter in method.parameters.items()},
        )
        for method in PRUNING_METHODS.values()
    ]


def _turn(message: generation_pb2.ChatMessage) -> Turn:
    parts: list[str | None] = []
    for part in message.parts:
        kind = part.WhichOneof("content")
        if kind is None:
            raise InvalidPromptError(f"a part of a {quoted(message.role)} turn has neither text nor image")
        parts.append(part.text if kind == "text" else None)
    return Turn(message.role, tuple(parts))
