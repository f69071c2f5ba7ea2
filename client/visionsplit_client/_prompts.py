"""Prompts: one question, a finished prompt, or a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visionsplit.errors import InvalidPromptError
from visionsplit.v1 import generation_pb2


@dataclass(frozen=True)
class ImagePart:
    """Stands for the call's next image."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `content` is text, or pieces of text and `ImagePart()` in order."""

    role: str  # "system", "user" or "assistant", as far as the checkpoint's chat template allows
    content: str | Sequence[str | ImagePart]

    def to_proto(self) -> generation_pb2.ChatMessage:
        pieces = [self.content] if isinstance(self.content, str) else self.content
        return generation_pb2.ChatMessage(
            role=checked_text(self.role, "a message's role"), parts=[_part(piece) for piece in pieces]
        )

    @classmethod
    def from_dict(cls, message: Mapping[str, Any]) -> "Message":
        """Read the common form: {"role": ..., "content": text or [{"type": "text", "text": ...}, {"type": "image"}]}.

        Raises:
            InvalidPromptError: the dict has another form. Images are given to the call itself, in order.
        """
        if set(message) != {"role", "content"}:
            raise InvalidPromptError(f"a message needs the keys 'role' and 'content', got {sorted(message)}")
        content = message["content"]
        if isinstance(content, str):
            return cls(message["role"], content)
        if not isinstance(content, Sequence) or not all(isinstance(piece, Mapping) for piece in content):
            raise InvalidPromptError(f"a message's content is text or a list of parts, not {_kind(content)}")
        return cls(message["role"], [_piece_from_dict(piece) for piece in content])


@dataclass(frozen=True)
class Prompt:
    """A finished prompt, used as it is. Make one with `Prompt.raw`."""

    text: str

    @classmethod
    def raw(cls, text: str) -> "Prompt":
        """A prompt that no chat template touches, with the checkpoint's placeholder where each image belongs."""
        return cls(text)


MessageLike = Message | Mapping[str, Any]


def prompt_to_proto(
    prompt: str | Prompt | None, messages: Sequence[MessageLike] | None, *, num_images: int
) -> generation_pb2.Prompt:
    """The protocol's prompt. A plain string becomes one user turn: the images, then the text.

    Raises:
        InvalidPromptError: neither or both of `prompt` and `messages` are given, or a message has a wrong form.
    """
    if (prompt is None) == (messages is None):
        raise InvalidPromptError("give either a prompt or messages")
    if isinstance(prompt, Prompt):
        return generation_pb2.Prompt(text=checked_text(prompt.text, "the prompt"))
    if prompt is not None:
        text = checked_text(prompt, "the prompt")
        turns = [Message("user", [*[ImagePart()] * num_images, text])]
    else:
        turns = [message if isinstance(message, Message) else Message.from_dict(message) for message in messages or ()]
    return generation_pb2.Prompt(chat=generation_pb2.Chat(messages=[turn.to_proto() for turn in turns]))


def checked_text(text: object, what: str) -> str:
    """Text that the protocol can carry.

    Raises:
        InvalidPromptError: it is not text, or holds half of a character (a lone surrogate).
    """
    if not isinstance(text, str):
        raise InvalidPromptError(f"{what} is {_kind(text)}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPromptError(
            f"{what} is not valid Unicode: character {error.start + 1} is {text[error.start]!r}"
        ) from None
    return text


def _kind(value: object) -> str:
    """What a value is, for an error."""
    if isinstance(value, list | tuple):
        return f"a list with {', '.join(sorted({type(element).__name__ for element in value})) or 'nothing'}"
    return type(value).__name__


def _part(piece: str | ImagePart) -> generation_pb2.ContentPart:
    if isinstance(piece, ImagePart):
        return generation_pb2.ContentPart(image=generation_pb2.ImagePart())
    return generation_pb2.ContentPart(text=checked_text(piece, "a message's text"))


def _piece_from_dict(piece: Mapping[str, Any]) -> str | ImagePart:
    if dict(piece) == {"type": "image"}:
        return ImagePart()
    if set(piece) == {"type", "text"} and piece["type"] == "text":
        return checked_text(piece["text"], "a message's text")
    raise InvalidPromptError(
        f"a message part with the keys {sorted(piece)} is not known; "
        'use {"type": "text", "text": ...} or {"type": "image"}, and give the images to the call itself'
    )
