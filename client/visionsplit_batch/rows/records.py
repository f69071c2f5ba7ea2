"""A job's result for one row: answers with their costs, or vision tokens."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
from visionsplit_client import (
    Compression,
    EncodedImage,
    FinishReason,
    Generation,
    ImagePart,
    Message,
    PositionIds,
    Pruning,
)

from visionsplit_batch.rows.fields import Carry, carried, plain_text
from visionsplit_batch.rows.rows import Answers, Outcome, Question, Tokens


@dataclass(frozen=True)
class RunLabels:
    """The values that all rows of a run have in common."""

    model: str
    method: str  # see `method_text`
    run: str  # the run's fingerprint


@dataclass(frozen=True)
class Answer:
    """One answer about a row's images."""

    prompt: str  # the question's text, or a conversation's messages as JSON in the form `Message.from_dict` reads
    text: str
    finish_reason: FinishReason
    prompt_tokens: int  # text, vision and newline tokens
    generated_tokens: int


@dataclass(frozen=True)
class Timings:
    """Seconds. Encoding times are sums over the row's images for the first answer, the others sums over its answers."""

    preprocess: float
    queue: float  # waiting for the vision tower
    encode: float
    llm_queue: float
    first_token: float
    decode: float
    total: float  # of the calls, measured by the job


@dataclass(frozen=True)
class Record:
    """An answered row. Counts of tokens and bytes, and budgets, are those of the images in the first answer."""

    id: str
    caption: str  # the first answer's text without surrounding white space
    answers: tuple[Answer, ...]
    tokens_before: int  # vision tokens of all images, without compression
    tokens_after: int  # kept vision tokens, without newlines
    newline_tokens: int
    budgets: tuple[tuple[int, ...], ...]  # for each image the tokens kept of each tile, thumbnail first
    wire_bytes: int
    timings: Timings
    model: str
    method: str
    run: str
    fields: Mapping[str, Any]  # columns of the input, as JSON values

    @classmethod
    def of(cls, outcome: Outcome, labels: RunLabels, carry: Carry = None) -> "Record":
        """The record of an outcome whose result is `Answers` with at least one answer."""
        result = outcome.result
        if not isinstance(result, Answers) or not result.generations:
            raise TypeError(f"row {outcome.id!r} has no answers but {type(result).__name__}")
        first = result.generations[0]
        return cls(
            id=plain_text(outcome.id),
            caption=first.text.strip(),
            answers=tuple(map(_answer, result.questions, result.generations)),
            tokens_before=first.usage.vision_tokens_before,
            tokens_after=first.usage.vision_tokens,
            newline_tokens=first.usage.newline_tokens,
            budgets=tuple(tuple(image.budgets) for image in first.images),
            wire_bytes=first.usage.wire_bytes,
            timings=_timings(result.generations),
            **asdict(labels),
            fields=carried(result.fields, carry),
        )

    def to_json(self) -> dict[str, Any]:
        """The columns as JSON values, in their order."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Record":
        """Restore a record from the output of `to_json`, which may have been stored as JSON.

        Raises:
            KeyError, TypeError: the value has another form.
        """
        return cls(
            **{
                **stored,
                "answers": tuple(Answer(**answer) for answer in stored["answers"]),
                "budgets": tuple(tuple(budgets) for budgets in stored["budgets"]),
                "timings": Timings(**stored["timings"]),
            }
        )


@dataclass(frozen=True)
class TokenRecord:
    """A row of vision tokens."""

    id: str
    images: tuple[EncodedImage, ...]
    fields: Mapping[str, Any]  # columns of the input, as JSON values

    @classmethod
    def of(cls, outcome: Outcome, carry: Carry = None) -> "TokenRecord":
        """The record of an outcome whose result is `Tokens`."""
        result = outcome.result
        if not isinstance(result, Tokens):
            raise TypeError(f"row {outcome.id!r} has no tokens but {type(result).__name__}")
        return cls(plain_text(outcome.id), result.images, carried(result.fields, carry))


def record_schema() -> pa.Schema:
    """The columns of `Record` in Parquet.

    `fields` is JSON text there: the input's columns may have other types from part to part, and all parts must have one
    schema to be read as one data set.
    """
    text, count = pa.string(), pa.int32()
    answer = pa.struct(
        [
            ("prompt", text),
            ("text", text),
            ("finish_reason", text),
            ("prompt_tokens", count),
            ("generated_tokens", count),
        ]
    )
    timings = pa.struct([(one.name, pa.float64()) for one in fields(Timings)])
    special = {
        "answers": pa.list_(answer),
        "budgets": pa.list_(pa.list_(count)),
        "wire_bytes": pa.int64(),
        "timings": timings,
    }
    counts = dict.fromkeys(("tokens_before", "tokens_after", "newline_tokens"), count)
    types = {**special, **counts}
    return pa.schema([pa.field(one.name, types.get(one.name, text), nullable=False) for one in fields(Record)])


def method_text(compression: Compression | None, pruning: Pruning | None, position_ids: PositionIds) -> str:
    """How the vision tokens were chosen, as JSON in a fixed order, without options left to the services' defaults."""
    chosen: dict[str, Any] = {"position_ids": position_ids}
    if compression is not None:
        chosen["compression"] = _given(asdict(compression))
    if pruning is not None:
        chosen["pruning"] = _given(asdict(pruning))
    return json.dumps(chosen, sort_keys=True, ensure_ascii=False)


def _answer(question: Question, generation: Generation) -> Answer:
    return Answer(
        _prompt(question),
        generation.text,
        generation.finish_reason,
        generation.usage.prompt_tokens,
        generation.usage.generated_tokens,
    )


def _prompt(question: Question) -> str:
    if question.messages is None:
        return plain_text(question.text or "")
    return plain_text(json.dumps([_message(message) for message in question.messages], ensure_ascii=False))


def _message(message: Message) -> dict[str, Any]:
    if isinstance(message.content, str):
        return {"role": message.role, "content": message.content}
    parts = [
        {"type": "image"} if isinstance(piece, ImagePart) else {"type": "text", "text": piece}
        for piece in message.content
    ]
    return {"role": message.role, "content": parts}


def _timings(generations: Sequence[Generation]) -> Timings:
    encoding = [image.timings for image in generations[0].images]
    answering = [generation.timings for generation in generations]
    return Timings(
        preprocess=math.fsum(one.preprocess_seconds for one in encoding),
        queue=math.fsum(one.queue_seconds for one in encoding),
        encode=math.fsum(one.encode_seconds for one in encoding),
        llm_queue=math.fsum(one.queue_seconds for one in answering),
        first_token=math.fsum(one.first_token_seconds for one in answering),
        decode=math.fsum(one.decode_seconds for one in answering),
        total=math.fsum(generation.total_seconds for generation in generations),
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, {}, False)}
