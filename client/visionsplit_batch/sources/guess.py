"""Chooses the column of images in a table if none is named: bytes before paths before URLs."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from visionsplit.images import HEAD_BYTES, begins_as_image
from visionsplit.network.locations import is_data_url

from visionsplit_batch.errors import InputError
from visionsplit_batch.sources.image_reader import base64_head
from visionsplit_batch.storage.storage import parse

IMAGE_COLUMNS = (
    "image", "images", "img", "image_path", "image_file", "path", "file", "file_name", "filename", "filepath",
    "file_path", "url", "image_url", "image_bytes", "image_base64", "base64", "bytes", "jpg", "jpeg", "png", "webp",
)  # fmt: skip
"""Names of columns that may hold images, in lower case, the most likely first."""

_BYTES_COLUMNS = frozenset({"image_bytes", "image_base64", "base64", "bytes", "jpg", "jpeg", "png", "webp"})
_BYTES, _PATH, _URL, _EMPTY = range(4)


def image_column(
    samples: Mapping[str, Sequence[Any]],
    where: str,
    *,
    bytes_columns: Collection[str] = (),
    id_column: str | None = None,
) -> str:
    """The name of the column of images.

    A column qualifies if its name is one of `IMAGE_COLUMNS`, or if its first values are image files. Of several, bytes
    come before paths and paths before URLs, then the order of `IMAGE_COLUMNS` decides. A column without a value counts
    as bytes if its type or its name says so: the first downloads of a dataset may all have failed.

    Args:
        samples: the first values of each column, by its name.
        where: the input's name, for the error.
        bytes_columns: columns whose type holds bytes.
        id_column: the column of ids, which is chosen only if no other column with a value qualifies.

    Raises:
        InputError: no column qualifies, or several without such a name hold images.
    """
    kinds = {name: _kind_of(name, values, typed=name in bytes_columns) for name, values in samples.items()}
    ranked = sorted(
        (kind == _EMPTY, name == id_column, kind, _position(name), name)
        for name, kind in kinds.items()
        if kind is not None
    )
    names = ", ".join(sorted(samples))
    if not ranked:
        raise InputError(f"no column of {where} seems to hold images; name one with --image-column: {names}")
    best = [name for *rank, name in ranked if tuple(rank) == ranked[0][:-1]]
    if len(best) > 1:
        raise InputError(f"several columns of {where} hold images; name one with --image-column: {', '.join(best)}")
    return best[0]


def _position(name: str) -> int:
    return IMAGE_COLUMNS.index(name.lower()) if name.lower() in IMAGE_COLUMNS else len(IMAGE_COLUMNS)


def _kind_of(name: str, values: Sequence[Any], *, typed: bool) -> int | None:
    """What a column holds; None if it cannot be images.

    Args:
        name: the column's name.
        values: its first values.
        typed: whether the column's type is one of bytes.
    """
    lower = name.lower()
    named = lower in IMAGE_COLUMNS
    kinds = {kind for value in values if value is not None and (kind := _kind(value, named=named)) is not None}
    if kinds:
        return min(kinds)
    if not named or any(value is not None for value in values):
        return None
    return _BYTES if typed or (values and lower in _BYTES_COLUMNS) else _EMPTY


def _kind(value: Any, *, named: bool) -> int | None:  # noqa: ANN401 - a column may hold any type
    """How a value would represent an image; None if it cannot be one."""
    if isinstance(value, Mapping) and value and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, list):
        return _kind(value[0], named=named) if value else None
    if isinstance(value, bytes):
        return _BYTES if named or begins_as_image(value[:HEAD_BYTES]) else None
    if not isinstance(value, str) or not value:
        return None
    if is_data_url(value) or begins_as_image(base64_head(value)):
        return _BYTES
    if not named:
        return None
    uri = parse(value)
    return _URL if uri is not None and uri.scheme in ("http", "https") else _PATH
