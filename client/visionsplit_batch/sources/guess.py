"""Which column of a table holds the images, where none is named: bytes before paths before URLs."""

from collections.abc import Mapping, Sequence
from typing import Any

from visionsplit.images import HEAD_BYTES, begins_as_image
from visionsplit_client._sources import is_data_url

from visionsplit_batch.errors import InputError
from visionsplit_batch.sources.pictures import base64_head
from visionsplit_batch.storage import parse

IMAGE_COLUMNS = (
    "image", "images", "img", "image_path", "image_file", "path", "file", "file_name", "filename", "filepath",
    "file_path", "url", "image_url", "image_bytes", "image_base64", "base64", "bytes", "jpg", "jpeg", "png", "webp",
)  # fmt: skip
"""Columns whose names say that they may hold images, in lower case, the likeliest first."""

_BYTES, _PATH, _URL, _EMPTY = range(4)


def image_column(samples: Mapping[str, Sequence[Any]], where: str) -> str:
    """The name of the images' column.

    A column counts if its name is one of `IMAGE_COLUMNS`, or if its first values are files of images. Of several,
    bytes come before paths and paths before URLs, then the order of `IMAGE_COLUMNS` decides.

    Args:
        samples: the first values of each column, by its name.
        where: the input's name, for people.

    Raises:
        InputError: no column counts, or several without such a name hold images.
    """
    ranked = sorted(rank for name, values in samples.items() if (rank := _rank(name, values)) is not None)
    names = ", ".join(sorted(samples))
    if not ranked:
        raise InputError(f"no column of {where} looks like the image's; name one with --image-column: {names}")
    best = [name for *rank, name in ranked if tuple(rank) == ranked[0][:2]]
    if len(best) > 1:
        raise InputError(f"several columns of {where} hold images; name one with --image-column: {', '.join(best)}")
    return best[0]


def _rank(name: str, values: Sequence[Any]) -> tuple[int, int, str] | None:
    lower = name.lower()
    named = lower in IMAGE_COLUMNS
    kinds = {kind for value in values if value is not None and (kind := _kind(value, named=named)) is not None}
    if not kinds and (not named or any(value is not None for value in values)):
        return None
    position = IMAGE_COLUMNS.index(lower) if named else len(IMAGE_COLUMNS)
    return min(kinds, default=_EMPTY), position, name


def _kind(value: Any, *, named: bool) -> int | None:  # noqa: ANN401 - whatever a column holds
    """What a value would be as an image; None if it cannot be one."""
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
