"""A benchmark's conversation as the prompt that LLaVA's own adapter in lmms-eval (`llava`) would send.

That adapter fills LLaVA's conversation template `vicuna_v1`. With it the published figures of LLaVA-NeXT with Vicuna,
and those of the methods that compress it, were made. For one question about one image:

    A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and
    polite answers to the user's questions. USER: <image>
    {question} ASSISTANT:

in which the first line ends at "USER: <image>", and the tokenizer puts its <s> before it. The template inside the
Hugging Face checkpoints llava-hf/llava-v1.6-vicuna-* has no such first sentence; `checkpoint` asks for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL import Image
from visionsplit_client import ImagePart, Message, Prompt

from benchmarks.public.settings import PromptForm

PLACEHOLDER = "<image>"
_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_END_OF_TURN = "</s>"


@dataclass(frozen=True)
class Question:
    """The content of one call."""

    images: tuple[Image.Image, ...]  # in order, at their full size
    prompt: Prompt | None  # either this
    messages: tuple[Message, ...] | None  # or this


def question_from(messages: Sequence[Mapping[str, Any]], form: PromptForm) -> Question:
    """The images and the prompt of a conversation in lmms-eval's form.

    Args:
        messages: {"role", "content"} each, the content a list of {"type": "text", "text"} or {"type": "image", "url"},
            in which the "url" is a Pillow image.

    Raises:
        ValueError: a part that is neither text nor a Pillow image; the services know no sound and no video.
    """
    turns = [(str(message["role"]), list(_parts(message))) for message in messages]
    images = tuple(part for _, parts in turns for part in parts if isinstance(part, Image.Image))
    if form == "checkpoint":
        return Question(images, None, tuple(Message(role, [_piece(part) for part in parts]) for role, parts in turns))
    return Question(images, Prompt.raw(_vicuna(turns)), None)


Part = str | Image.Image


def _parts(message: Mapping[str, Any]) -> Iterator[Part]:
    content = message["content"]
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part["type"] == "text":
            yield str(part["text"])
        elif part["type"] == "image" and isinstance(part["url"], Image.Image):
            yield part["url"]
        else:
            held = type(part.get("url")).__name__
            raise ValueError(
                f"a question holds {part['type']} as {held}; only text and Pillow images can be asked about"
            )


def _piece(part: Part) -> str | ImagePart:
    return part if isinstance(part, str) else ImagePart()


def _vicuna(turns: Sequence[tuple[str, Sequence[Part]]]) -> str:
    """The finished prompt, open for the assistant's next turn."""
    system = " ".join(_text(parts) for role, parts in turns if role == "system") or _SYSTEM
    text = f"{system} "
    for role, parts in turns:
        if role == "user":
            text += f"USER: {_text(parts)} "
        elif role == "assistant":
            text += f"ASSISTANT: {_text(parts)}{_END_OF_TURN}"
    return f"{text}ASSISTANT:"


def _text(parts: Sequence[Part]) -> str:
    """The text of a turn: neighbouring images as placeholders on a separate line.

    A text that has placeholders already says itself where the images belong.
    """
    if any(isinstance(part, str) and PLACEHOLDER in part for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    pieces: list[str] = []
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
        several = list(run)
        pieces += [str(part) for part in several] if is_text else [" ".join([PLACEHOLDER] * len(several)) + "\n"]
    return "".join(pieces)
