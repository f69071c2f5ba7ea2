"""LLaVA's training format: `{"id", "image", "conversations": [{"from", "value"}, ...]}`, as an array or as lines."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from visionsplit_client import ImagePart, Message

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources.jsonl import JsonLinesSource
from visionsplit_batch.sources.table import Columns, row_id

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_CONVERSATIONS = "conversations"
_MARKER = re.compile(r"\n?<image>\n?")  # with the line end that the format puts next to it


class LlavaSource(JsonLinesSource):
    """Each human turn of a row's conversation is a question, asked after the preceding turns of the file.

    `<image>` in a human turn stands for the row's next image. If no turn contains it, the images come first. The column
    of conversations is copied to the output, so that the given answers are next to the new ones.
    """

    format = "llava"
    suffixes = frozenset({".json", ".jsonl", ".ndjson"})
    image_columns = ("image",)

    def _set_columns(self, columns: Columns) -> None:
        if columns.prompt is not None:
            raise InputError("the questions of the format llava are its conversations; name no column for prompts")
        super()._set_columns(columns)

    def content(self, row: Mapping[str, Any], folder: str) -> Content:
        """Raises ValueError if the conversation has another form."""
        if self.id_column is not None:
            row_id(row.get(self.id_column), self.id_column)
        turns = _turns(row.get(_CONVERSATIONS))
        content = self._columns.content(row, self.image_reader, folder)
        questions = tuple(_questions(turns, len(content.images)))
        return Content(images=content.images, questions=questions, fields=content.fields)


def is_llava(row: Mapping[str, Any]) -> bool:
    """Whether a row is of this format."""
    turns = row.get(_CONVERSATIONS)
    return (
        isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and {"from", "value"} <= turns[0].keys()
    )


def _turns(conversations: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - checked here
    """The role and text of each turn."""
    if not isinstance(conversations, list) or not conversations:
        raise ValueError(f"{_CONVERSATIONS!r} is not a non-empty list")
    turns = []
    for turn in conversations:
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not (isinstance(value, str) and isinstance(role, str) and role in _ROLES):
            raise ValueError(f"a turn needs 'value', a text, and 'from', one of {', '.join(_ROLES)}")
        turns.append((_ROLES[role], value))
    return turns


def _questions(turns: Sequence[tuple[str, str]], images: int) -> Iterator[Question]:
    """One question per human turn.

    Raises:
        ValueError: there is no human turn, or the first one does not show all images, which each question is about.
    """
    messages: list[Message] = []
    first = True
    for role, text in turns:
        shown = len(_MARKER.findall(text)) if role == "user" else 0
        if role == "user":
            wanted = (0, images) if first else (0,)
            if shown not in wanted:
                where = "the first human turn" if first else "a later turn"
                raise ValueError(f"{where} has <image> {shown} times, where the row has {images} images for the first")
            messages.append(Message(role, _pieces(text, images if first and not shown else 0)))
            yield Question(messages=tuple(messages))
            first = False
        else:
            messages.append(Message(role, text))
    if first:
        raise ValueError("the conversation has no turn of a human")


def _pieces(text: str, in_front: int) -> tuple[str | ImagePart, ...]:
    texts = _MARKER.split(text)
    pieces: list[str | ImagePart] = [ImagePart()] * in_front
    for number, piece in enumerate(texts):
        pieces += [ImagePart()] if number else []
        pieces += [piece] if piece else []
    return tuple(pieces)
