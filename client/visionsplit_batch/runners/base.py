"""What is to be done with each row, and what a runner is."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, get_args

from visionsplit_client import Compression, DataTypeName, PositionIds, Pruning, Sampling

from visionsplit_batch.errors import BatchError
from visionsplit_batch.rows.rows import Content, Outcome, Question, Slice

WorkKind = Literal["caption", "encode", "ask"]
Stage = Literal["read", "encode", "ask"]

_NAME = r"[^\W\d][\w .-]*"
_COLUMN = re.compile(rf"\{{\{{(?P<plain>{_NAME})\}}\}}|\{{(?P<column>{_NAME})\}}")


class TemplateError(BatchError):
    """A prompt names a column that the row does not have."""


@dataclass(frozen=True)
class Work:
    """What to do with each row. It is pickled and sent to the process that does it.

    A prompt may name the row's other columns: `{title}`. Braces around anything that is not a name stay as they are,
    and `{{title}}` stands for the text `{title}`.

    A method of compression that reads the prompt reads one question. Where a row is asked several questions, its images
    are encoded once for all of them, so such a method needs `Compression.guidance`.

    Raises:
        ValueError: an unknown kind of work, or prompts for work that asks nothing.
    """

    kind: WorkKind  # from images to answers, from images to tokens, from tokens to answers
    prompts: tuple[str, ...] = ()  # asked of rows without questions
    compression: Compression | None = None  # None: the encoder's default
    data_type: DataTypeName | None = None  # None: the encoder's default
    pruning: Pruning | None = None
    position_ids: PositionIds | None = None
    sampling: Sampling | None = None
    timeout: float | None = 600.0  # seconds for one call, with its time in queues; None sets no limit

    def __post_init__(self) -> None:
        if self.kind not in get_args(WorkKind):
            raise ValueError(f"kind is {self.kind!r}; {', '.join(get_args(WorkKind))} exist")
        if self.kind == "encode" and self.prompts:
            raise ValueError("encoding asks nothing; leave the prompts out")

    @property
    def columns(self) -> frozenset[str]:
        """The columns that the prompts name."""
        return frozenset(match["column"] for prompt in self.prompts for match in _COLUMN.finditer(prompt)) - {None}

    def questions(self, content: Content) -> tuple[Question, ...]:
        """The questions about a row: its own, else the prompts with the values of its columns.

        Raises:
            TemplateError: a column is missing or empty, or there is no question at all.
        """
        if content.questions:
            return content.questions
        if not self.prompts:
            raise TemplateError("the row has no question, and the job no prompt")
        return tuple(Question(_filled(prompt, content.fields)) for prompt in self.prompts)


def _filled(prompt: str, fields: Mapping[str, Any]) -> str:
    def value(match: re.Match[str]) -> str:
        if match["plain"]:
            return f"{{{match['plain']}}}"
        found = fields.get(match["column"])
        if found is None:
            raise TemplateError(f"the prompt names the column {match['column']!r}, which the row does not have")
        return json.dumps(found, ensure_ascii=False) if isinstance(found, dict | list) else str(found)

    return _COLUMN.sub(value, prompt)


@dataclass(frozen=True)
class StageUse:
    """How busy one stage was since the last question. The stage whose share is near 1 holds up the others."""

    name: Stage
    places: int  # rows or tasks that it works on at once
    busy: float  # share of the places' time that was used, 0 to 1
    rows: int  # in it or waiting for it now


@dataclass(frozen=True)
class RunnerIdentity:
    """What decides the results, together with the work. It is equal for runs whose rows may be combined."""

    encoder_model: str | None  # None where nothing is encoded
    encoder_fingerprint: str | None  # of the tokens, in any case
    compression: Compression | None  # with the encoder's default put in
    data_type: DataTypeName | None  # of the tokens, with the encoder's default put in
    llm_model: str | None  # None where nothing is asked, or behind the encoder where it cannot be seen
    versions: Mapping[str, str] = field(default_factory=dict)  # by part: "visionsplit", "encoder", "llm"


class Runner(Protocol):
    """Works on rows. A context manager: entering it starts what it needs, and finds out what that is.

    Raises on entering:
        UnavailableError, UnauthenticatedError, IncompatibleServicesError: the services cannot do the work.
        CheckpointError, ConfigError, CredentialsError: what it was made with cannot be used.
    """

    def identity(self) -> RunnerIdentity:
        """The identity of what was started."""

    def run(self, slices: Iterator[Slice]) -> Iterator[Outcome]:
        """One outcome for each row, in any order. Slices are pulled on the caller's thread, and only while few rows
        are on their way. Closing the iterator cancels those. Only one iterator may run at a time.

        Raises:
            UnavailableError, UnauthenticatedError, IncompatibleServicesError: a service failed after all repetitions.
                The remaining rows have no outcome.
        """

    def stages(self) -> tuple[StageUse, ...]:
        """How busy each stage was since the last call. Any thread may ask."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
