"""From what a user names as the input to the source that reads it."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from visionsplit_client import Limits, Timeouts

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows import Source
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import FilesSource, ListSource
from visionsplit_batch.sources.huggingface import HuggingFaceSource, is_saved_dataset
from visionsplit_batch.sources.inputs import Found, Inputs, is_url, suffix
from visionsplit_batch.sources.jsonl import JsonLinesSource, parse_row, read_lines
from visionsplit_batch.sources.openai import OpenAiSource
from visionsplit_batch.sources.parquet import ParquetSource
from visionsplit_batch.sources.pictures import Pictures
from visionsplit_batch.sources.table import Columns
from visionsplit_batch.sources.webdataset import WebDatasetSource
from visionsplit_batch.storage import Storage

FORMATS: tuple[type[RowSource[Any]], ...] = (
    FilesSource, ListSource, JsonLinesSource, OpenAiSource, ParquetSource, WebDatasetSource, HuggingFaceSource
)  # fmt: skip
_NAMES_LOOKED_AT = 1000
_LINES_LOOKED_AT = 20
_LONGEST_LINE = 1 << 28  # bytes
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


def open_source(
    inputs: Sequence[str],
    *,
    format: str | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
) -> Source:
    """The source for one or several inputs of one format.

    Args:
        inputs: folders, files, globs (`photos/**/*.jpg`) and names with braces (`shard-{000..099}.tar`): local paths
            or URIs of stores; single images also as http(s) URLs.
        format: one of `FORMATS`; None finds it by the files' names and beginnings.
        columns: which columns hold what, in formats with columns.
        split: of a saved dataset with several.
        limits: images with more bytes fail.
        timeouts: how long an image behind a URL may take.

    Raises:
        InputError: the input is not there, of no known format, or lacks a column.
    """
    storage = Storage()
    found = Inputs(inputs, storage)
    pictures = Pictures(limits or Limits(), timeouts or Timeouts(), storage)
    try:
        name = format or _detect(found)
        return _make(name, found, pictures, columns or Columns(), split)
    except (OSError, ValueError) as error:  # a store of an unknown kind, no permission
        raise InputError(f"the input {', '.join(inputs)} cannot be opened: {error}") from error


def _make(name: str, inputs: Inputs, pictures: Pictures, columns: Columns, split: str | None) -> Source:
    if split is not None and name != HuggingFaceSource.format:
        raise InputError(f"the format {name} has no splits; leave out the split {split!r}")
    if name == HuggingFaceSource.format:
        return HuggingFaceSource(inputs, pictures, columns, split)
    if name in (FilesSource.format, ListSource.format):
        if columns != Columns():
            raise InputError(f"the format {name} has no columns; name none")
        return FilesSource(inputs, pictures) if name == FilesSource.format else ListSource(inputs, pictures)
    for kind in (JsonLinesSource, OpenAiSource, ParquetSource, WebDatasetSource):
        if name == kind.format:
            return kind(inputs, pictures, columns)
    raise InputError(f"the format {name!r} is not known; {_known()} are")


def _detect(inputs: Inputs) -> str:
    if inputs.folder is not None and is_saved_dataset(inputs.storage, inputs.folder):
        return HuggingFaceSource.format
    first: dict[str, Found] = {}  # by format
    strange: Found | None = None
    for found in islice(inputs.files(None), _NAMES_LOOKED_AT):
        name = _format_of(found)
        if name is None:
            strange = strange or found
        else:
            first.setdefault(name, found)
    if len(first) > 1:
        first.pop(ListSource.format, None)  # captions and notes beside the data
    if len(first) > 1:
        names = " and ".join(f"{name} ({found.name})" for name, found in first.items())
        raise InputError(f"the input holds several formats, {names}; say which one is meant")
    if not first:
        return _by_content(inputs, strange)
    ((name, found),) = first.items()
    return OpenAiSource.format if name == JsonLinesSource.format and _is_openai(inputs.storage, found) else name


def _format_of(found: Found) -> str | None:
    ending = suffix(found.name)
    for kind in (FilesSource, ListSource, JsonLinesSource, ParquetSource, WebDatasetSource):
        if ending in kind.suffixes:
            return kind.format
    return FilesSource.format if is_url(found.location) else None


def _by_content(inputs: Inputs, strange: Found | None) -> str:
    """Raises InputError unless the files, whose names say nothing, begin as one of the formats does."""
    given = ", ".join(inputs.locations)
    if strange is None:
        raise InputError(f"the input {given} is empty")
    if strange.name.lower().endswith(_COMPRESSED):
        raise InputError(f"{strange.name} is compressed, so that it cannot be read from the middle; unpack it first")
    start = inputs.storage.read(strange.location, 511)
    if inputs.single_file and start.startswith(b"PAR1"):
        return ParquetSource.format
    if inputs.single_file and start[257:262] == b"ustar":
        return WebDatasetSource.format
    if inputs.single_file and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        found = Found(strange.name, strange.location)
        return OpenAiSource.format if _is_openai(inputs.storage, found) else JsonLinesSource.format
    raise InputError(f"the format of {strange.name} cannot be told; name one of {_known()}")


def _is_openai(storage: Storage, found: Found) -> bool:
    for _, line in islice(read_lines(storage, found.location, _LONGEST_LINE), _LINES_LOOKED_AT):
        try:
            row = parse_row(line)
        except ValueError:
            continue  # the next may be sound
        return {"custom_id", "body"} <= row.keys()
    return False


def _known() -> str:
    return ", ".join(kind.format for kind in FORMATS)
