"""Rows with columns: selects the columns of the image, the id and the prompt, and reads a row's content from them."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources.guess import image_column
from visionsplit_batch.sources.image_reader import ImageReader


@dataclass(frozen=True)
class Columns:
    """Names of columns. None means: find the images' by its name, use the row's place as id, use the job's prompt."""

    id: str | None = None
    image: str | None = None
    prompt: str | None = None
    fields: tuple[str, ...] | None = None  # the other columns to take; None takes all of them

    @property
    def names(self) -> list[str] | None:
        """All columns to read, once the image's is known; None means all that exist."""
        if self.fields is None:
            return None
        return list(dict.fromkeys(name for name in (self.id, self.image, self.prompt, *self.fields) if name))

    def found_in(
        self, samples: Mapping[str, Sequence[Any]], where: str, *, bytes_columns: Collection[str] = ()
    ) -> "Columns":
        """Complete these names with the image's column of the input.

        Args:
            samples: the first values of each column by its name; not needed if the image's column is named.
            where: the input's name, for errors.
            bytes_columns: columns whose type holds bytes.

        Raises:
            InputError: a named column does not exist, or no column seems to hold images.
        """
        for name in (self.id, self.image, self.prompt, *(self.fields or ())):
            if name is not None and name not in samples:
                raise InputError(f"{where} has no column {name!r}; it has {', '.join(sorted(samples))}")
        if self.image is not None:
            return self
        others = {name: values for name, values in samples.items() if name != self.prompt}
        return replace(self, image=image_column(others, where, bytes_columns=bytes_columns, id_column=self.id))

    def others(self, names: Iterable[str]) -> frozenset[str]:
        """The input's columns that become a row's fields."""
        return frozenset(name for name in names if name not in (self.id, self.image, self.prompt) and self.takes(name))

    def settings(self) -> dict[str, Any]:
        return asdict(self)

    def takes(self, name: str) -> bool:
        return self.fields is None or name in self.fields

    def content(self, row: Mapping[str, Any], image_reader: ImageReader, folder: str) -> Content:
        """Read a row: the columns that are neither id, image nor prompt become its fields.

        Raises:
            ValueError: the row lacks a column, or has no usable value in it.
            Exception: raised by reading the image.
        """
        if self.id is not None:
            row_id(row.get(self.id), self.id)
        if self.image is None or self.image not in row:
            raise ValueError(f"the row has no column {self.image!r}")
        questions = self.questions(row)
        taken = (self.id, self.image, self.prompt)
        fields = {name: value for name, value in row.items() if name not in taken and self.takes(name)}
        return Content(images=image_reader.of_cell(row[self.image], folder), questions=questions, fields=fields)

    def questions(self, row: Mapping[str, Any]) -> tuple[Question, ...]:
        """One question for each prompt of the row; empty if the job's prompts apply.

        Raises:
            ValueError: the row has no usable prompt.
        """
        if self.prompt is None:
            return ()
        return tuple(Question(text=text) for text in _texts(row.get(self.prompt), self.prompt))


def distinct(names: Sequence[str], where: str) -> Sequence[str]:
    """Check the names of a table's columns.

    Raises:
        InputError: a name appears twice, so that one of the columns would be lost.
    """
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"{where} has several columns named {', '.join(map(repr, twice))}; rename all but one")
    return names


def row_id(value: Any, column: str) -> str:  # noqa: ANN401 - the input may hold any type
    """The id as text.

    Raises:
        ValueError: the id is neither text nor a whole number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"the id in {column!r} is {_short(value)}; text or a whole number is needed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the id in {column!r} cannot be written as UTF-8: {error}") from error
    return value


def id_or(value: Any, column: str, otherwise: str) -> str:  # noqa: ANN401 - the column may hold any type
    """The id, or a substitute for a row whose id is invalid and which fails when it is read."""
    try:
        return row_id(value, column)
    except ValueError:
        return otherwise


def _texts(value: Any, column: str) -> list[str]:  # noqa: ANN401
    """One prompt, or a list of them."""
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) and one for one in prompts):
        raise ValueError(f"the prompt in {column!r} is {_short(value)}; text or a list of texts is needed")
    return prompts


def _short(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
