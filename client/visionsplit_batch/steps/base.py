"""What the steps share: batches of columns, rows that fail, and calls of several rows at one time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from visionsplit_client import (
    Client,
    ClientSecurity,
    Generation,
    ImageSource,
    InvalidImageError,
    Retries,
)

from visionsplit_batch.rows.rows import Content
from visionsplit_batch.runners.base import Work
from visionsplit_batch.runners.row import FAILS_ROW

Columns = Mapping[str, Any]
"""Columns by name: arrays or lists of equal lengths."""

PLAIN = ClientSecurity()
RETRIES = Retries(attempts=30, overloaded=True)  # about 45 seconds for a service that restarts
COUNTS = {"tokens_before": pa.int64(), "tokens_after": pa.int64()}
ANSWER_COLUMNS = {
    "text": pa.string(),
    "finish_reason": pa.string(),
    "prompt_tokens": pa.int64(),
    "generated_tokens": pa.int64(),
    **COUNTS,
}


class Step(ABC):
    """What the classes share. An object holds only its settings, so Ray can send it to its workers."""

    columns: Mapping[str, pa.DataType]  # that are added, beside `error`

    def __init__(
        self,
        work: Work,
        services: Mapping[str, Any],
        read: Sequence[str | None],
        *,
        in_flight: int,
        security: ClientSecurity,
        retries: Retries,
        raise_errors: bool,
    ) -> None:
        """
        Args:
            services: the addresses as `Client` takes them.
            read: the columns that a row's call needs, beside those that the prompt names.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight is {in_flight}; at least 1 is needed")
        self._work = work
        self._options = {**services, "security": security, "retries": retries, "timeout": work.timeout}
        self._read = {*work.columns, *(name for name in read if name is not None)}
        self._types = {**self.columns, "error": pa.string()}
        self._in_flight = in_flight
        self._raise_errors = raise_errors

    def __call__(self, batch: pa.Table | Columns) -> pa.Table | dict[str, Any]:
        """The batch with the new columns. The calls of `in_flight` rows run at one time.

        Raises:
            VisionSplitError, ValueError, TypeError, OSError: what failed a row, with `raise_errors`.
            KeyError: the batch lacks a column.
        """
        if isinstance(batch, pa.Table):
            table = batch
            for name, values in self._added({name: table[name].to_pylist() for name in self._read}).items():
                if name in table.column_names:
                    table = table.drop_columns([name])
                table = table.append_column(name, pa.array(values, self._types[name]))
            return table
        return {**batch, **self._added({name: batch[name] for name in self._read})}

    def _added(self, read: Columns) -> dict[str, list[Any]]:
        """The new columns, from those that the calls need."""
        rows = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
        with Client(**self._options) as client, ThreadPoolExecutor(self._in_flight) as pool:
            results = list(pool.map(lambda row: self._result(client, row), rows))
        return {name: [result.get(name) for result in results] for name in self._types}

    def _result(self, client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._call(client, row)
        except FAILS_ROW as error:
            if self._raise_errors:
                raise
            return {"error": f"{type(error).__name__}: {error}"}

    @abstractmethod
    def _call(self, client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
        """The new columns of one row."""

    def _prompt(self, row: Mapping[str, Any], column: str | None) -> str:
        if column is not None and (own := row[column]):
            return str(own)
        (question,) = self._work.questions(Content(fields=row))
        return question.text or ""


def image_of(value: Any) -> ImageSource:  # noqa: ANN401 - a column's value
    if value is None or (isinstance(value, str | bytes) and not value):
        raise InvalidImageError("the row has no image")
    if isinstance(value, np.ndarray):
        if value.dtype != np.uint8:
            raise InvalidImageError(f"the image is an array of {value.dtype}; uint8 is needed")
        return Image.fromarray(value)
    source: ImageSource = value
    return source


def answer_columns(generation: Generation) -> dict[str, Any]:
    usage = generation.usage
    values = (
        generation.text,
        generation.finish_reason,
        usage.prompt_tokens,
        usage.generated_tokens,
        usage.vision_tokens_before,
        usage.vision_tokens,
    )
    return dict(zip(ANSWER_COLUMNS, values, strict=True))
