"""What flows through a batch job: entries of the input, rows that were read, outcomes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from visionsplit_client import EncodedImage, Generation, ImageSummary, Message, Sampling

from visionsplit_batch.rows.left_out import LeftOut

_LONGEST_MESSAGE = 2000  # characters


@dataclass(frozen=True)
class Entry:
    """One row of the input as the listing finds it: where it lies, not what it holds."""

    id: str  # unique in the input, the same in every run
    path: str  # file, as the source opens it
    place: tuple[int, ...] = ()  # within the file, as the source's format counts: a row number, or offsets and lengths


@dataclass(frozen=True)
class Slice:
    """Entries that are read and worked on together: near each other, all of one part of the output, in order."""

    part: int
    indices: tuple[int, ...]  # of the entries, counted over the whole input; some between them may be done already
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Question:
    """What is asked about a row's images: a text, or a whole conversation."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: Sampling | None = None  # in place of the job's


@dataclass(frozen=True)
class Content:
    """What an entry holds."""

    images: tuple[bytes, ...] = ()  # files, as they are
    tokens: tuple[EncodedImage, ...] = ()  # instead of images, where those were encoded before
    questions: tuple[Question, ...] = ()  # empty: the job's own prompts
    fields: Mapping[str, Any] = field(default_factory=dict)  # other columns: for templates, and to carry along


@dataclass(frozen=True)
class Failure:
    """Why a row has no answer."""

    error: str  # the exception's class
    message: str
    stage: str  # "read", "encode", "ask" or "write"

    @classmethod
    def of(cls, error: Exception, stage: str) -> "Failure":
        message = str(error)
        if len(message) > _LONGEST_MESSAGE:  # it may quote the row, with a whole image as base64 text
            message = f"{message[:_LONGEST_MESSAGE]}..."
        return cls(type(error).__name__, message, stage)


@dataclass(frozen=True)
class Answers:
    """A row's answers, one for each question."""

    questions: tuple[Question, ...]
    generations: tuple[Generation, ...]
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Tokens:
    """A row's vision tokens, where the job only encodes."""

    images: tuple[EncodedImage, ...]
    fields: Mapping[str, Any]

    @property
    def summaries(self) -> tuple[ImageSummary, ...]:
        return tuple(image.summary for image in self.images)


@dataclass(frozen=True)
class Outcome:
    """The end of one row."""

    part: int
    index: int  # over the whole input
    id: str
    result: Answers | Tokens | Failure


class Source(Protocol):
    """An input. It is pickled to where it is read."""

    def settings(self) -> Mapping[str, Any]:
        """What it was made from, for the run's fingerprint: JSON values."""

    @property
    def known_columns(self) -> frozenset[str] | None:
        """The columns that rows bring along beside id, image and prompt, as far as the first rows tell; empty where the
        format has none, None where only reading rows tells."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What of the input no row is made of, in the last listing that came to its end."""

    def entries(self) -> Iterator[Entry]:
        """All rows in an order that is the same each time, as a stream: never the whole input in memory.

        Raises:
            InputError: the input as a whole cannot be listed.
        """

    def read(self, entries: Sequence[Entry]) -> Iterator[Content | Failure]:
        """The content of each, in their order. What is wrong with one of them fails only that one."""
