"""The first values of Arrow columns, from which the column of images is chosen."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from visionsplit_batch.sources.arrow_cells import holds_bytes, is_text, may_hold_images
from visionsplit_batch.sources.guess import IMAGE_COLUMNS

ROWS_LOOKED_AT = 16  # of each file
FILES_LOOKED_AT = 16  # since the first files may be empty, or contain only nulls


class ArrowSamples:
    """Looks at one file after another until the content of all columns is known."""

    def __init__(self, *, wanted: bool) -> None:
        """
        Args:
            wanted: whether values are needed; otherwise only the names of the columns are collected.
        """
        self.values: dict[str, list[Any]] = {}  # by column name; empty for columns that cannot hold images
        self.bytes_columns: set[str] = set()  # columns whose type holds bytes
        self._wanted = wanted
        self._unknown: set[str] = set()  # columns that may hold images and have had no value so far

    @property
    def settled(self) -> bool:
        """Whether further files would add nothing."""
        return bool(self.values) and not self._unknown

    def add(self, schema: pa.Schema, first_values: Callable[[str], list[Any]]) -> None:
        """Look at a file.

        Args:
            schema: the file's columns.
            first_values: returns the first values of the column with this name.
        """
        for column in schema:
            seen = self.values.setdefault(column.name, [])
            if not (self._wanted and _may_be_images(column)) or _has_value(seen):
                continue
            seen += first_values(column.name)
            if holds_bytes(column.type):
                self.bytes_columns.add(column.name)
            if _has_value(seen) or column.name in self.bytes_columns:
                self._unknown.discard(column.name)
            else:
                self._unknown.add(column.name)


def _has_value(values: list[Any]) -> bool:
    return any(value is not None for value in values)


def _may_be_images(column: pa.Field) -> bool:
    """Whether to read a column's values. Text counts only under a likely name: other text may be long to read."""
    named = column.name.lower() in IMAGE_COLUMNS
    return may_hold_images(column.type) and (named or not is_text(column.type))
