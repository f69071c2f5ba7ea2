"""The data types of a batch job: entries of the input, rows that were read, outcomes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from visionsplit_client import EncodedImage, Generation, ImageSummary, Message, Sampling

from visionsplit_batch.rows.left_out import LeftOut

_LONGEST_MESSAGE = 2000  # characters


@dataclass(frozen=True)
class Entry:
    """The location of one input row, as the listing finds it, without its content."""

    id: str  # unique in the input and equal in every run
    path: str  # of the file, in the form that the source opens
    place: tuple[int, ...] = ()  # within the file, in the format's units: a row number, or offsets and lengths


@dataclass(frozen=True)
class Slice:
    """Entries that are read and processed together: close together, in order, and all of one part of the output."""

    part: int
    indices: tuple[int, ...]  # of the entries in the whole input; rows between them may be done already
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Question:
    """A question about a row's images: a text, or a whole conversation."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    sampling: Sampling | None = None  # replaces the job's options


@dataclass(frozen=True)
class Content:
    """The content of an entry."""

    images: tuple[bytes, ...] = ()  # image files, unchanged
    tokens: tuple[EncodedImage, ...] = ()  # in place of images that were encoded earlier
    questions: tuple[Question, ...] = ()  # empty if the job's prompts apply
    fields: Mapping[str, Any] = field(default_factory=dict)  # other columns, for templates and for the output


@dataclass(frozen=True)
class Failure:
    """Why a row has no answer."""

    error: str  # the exception's class
    message: str
    stage: str  # "read", "encode", "ask" or "write"

    @classmethod
    def of(cls, error: Exception, stage: str) -> "Failure":
        message = str(error)
        if len(message) > _LONGEST_MESSAGE:  # the message may quote the row, with a whole image as base64 text
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
    """A row's vision tokens, from a job that only encodes."""

    images: tuple[EncodedImage, ...]
    fields: Mapping[str, Any]

    @property
    def summaries(self) -> tuple[ImageSummary, ...]:
        return tuple(image.summary for image in self.images)


@dataclass(frozen=True)
class Outcome:
    """The result of one row."""

    part: int
    index: int  # in the whole input
    id: str
    result: Answers | Tokens | Failure


class Source(Protocol):
    """An input. It is pickled and sent to the processes that read it."""

    def settings(self) -> Mapping[str, Any]:
        """The settings it was created with, as JSON values, for the run's fingerprint."""

    @property
    def known_columns(self) -> frozenset[str] | None:
        """The columns of rows besides id, image and prompt, as far as the first rows show; empty if the format has
        none, None if they are known only by reading rows."""

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The files of the input that no row is made of, from the last complete listing."""

    def entries(self) -> Iterator[Entry]:
        """All rows, in the same order each time, as a stream that never holds the whole input in memory.

        Raises:
            InputError: the input as a whole cannot be listed.
        """

    def read(self, entries: Sequence[Entry]) -> Iterator[Content | Failure]:
        """Read each entry's content, in their order. A problem with one entry fails only that entry."""
