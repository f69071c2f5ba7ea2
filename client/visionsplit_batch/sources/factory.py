"""Selects the source for what a user gives as the input."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from visionsplit.images import begins_as_image
from visionsplit_client import Limits, Timeouts

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.left_out import in_words
from visionsplit_batch.rows.rows import Source
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.delimited import CsvSource, TsvSource
from visionsplit_batch.sources.files import FilesSource, ListSource
from visionsplit_batch.sources.huggingface import HuggingFaceSource, is_saved_dataset
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs, is_url, suffix
from visionsplit_batch.sources.json_rows import json_rows, parse_row
from visionsplit_batch.sources.jsonl import JsonLinesSource, JsonSource
from visionsplit_batch.sources.llava import LlavaSource, is_llava
from visionsplit_batch.sources.openai import OpenAiSource
from visionsplit_batch.sources.parquet import ParquetSource
from visionsplit_batch.sources.table import Columns
from visionsplit_batch.sources.text import decoded, encoding_of
from visionsplit_batch.sources.webdataset import WebDatasetSource
from visionsplit_batch.storage.storage import Storage, absolute

FORMATS: tuple[type[RowSource[Any]], ...] = (
    FilesSource, ListSource, JsonLinesSource, JsonSource, CsvSource, TsvSource, ParquetSource, WebDatasetSource,
    HuggingFaceSource, LlavaSource, OpenAiSource,
)  # fmt: skip
# Formats recognised by file names. A folder may also contain files of later groups: captions, notes, metadata.
_BY_NAME: tuple[tuple[type[RowSource[Any]], ...], ...] = (
    (FilesSource, JsonLinesSource, ParquetSource, WebDatasetSource),
    (CsvSource, TsvSource, JsonSource),
    (ListSource,),
)
_WITH_COLUMNS = (
    JsonLinesSource,
    JsonSource,
    CsvSource,
    TsvSource,
    ParquetSource,
    WebDatasetSource,
    LlavaSource,
    OpenAiSource,
)
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
    image_root: str | None = None,
    output: str | None = None,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
) -> Source:
    """Create the source for one or several inputs of one format.

    Args:
        inputs: folders, files, globs (`photos/**/*.jpg`) and names with braces (`shard-{000..099}.tar`): local paths
            or URIs of stores; single images also as http(s) URLs.
        format: one of `FORMATS`; None detects it from the files' names and first bytes.
        columns: the columns' names, in formats with columns.
        split: the split of a saved dataset with several.
        image_root: the folder to which images' relative paths refer, in formats that have paths; None means the folder
            of the file with the path.
        output: the folder that the job writes to, which is never part of the input.
        limits: images with more bytes fail.
        timeouts: how long fetching an image from a URL may take.

    Raises:
        InputError: the input does not exist, has an unknown format, or lacks a column.
    """
    storage = Storage()
    root = None if image_root is None else absolute(image_root)
    image_reader = ImageReader(limits or Limits(), timeouts or Timeouts(), storage, root)
    try:
        found = Inputs(inputs, storage, output=output)
        name = format or _detect(found)
        return _make(name, found, image_reader, columns or Columns(), split)
    except (OSError, ValueError) as error:  # for example a store of an unknown kind, or a missing permission
        raise InputError(f"the input {', '.join(inputs)} cannot be opened: {error}") from error


def _make(name: str, inputs: Inputs, image_reader: ImageReader, columns: Columns, split: str | None) -> Source:
    if split is not None and name != HuggingFaceSource.format:
        raise InputError(f"the format {name} has no splits; leave out the split {split!r}")
    if image_reader.root is not None and name in (FilesSource.format, WebDatasetSource.format):
        raise InputError(f"the format {name} has no paths that could begin in a folder; leave out the image root")
    if name == HuggingFaceSource.format:
        return HuggingFaceSource(inputs, image_reader, columns, split)
    if name in (FilesSource.format, ListSource.format):
        if columns != Columns():
            raise InputError(f"the format {name} has no columns; name none")
        return FilesSource(inputs, image_reader) if name == FilesSource.format else ListSource(inputs, image_reader)
    for kind in _WITH_COLUMNS:
        if name == kind.format:
            return kind(inputs, image_reader, columns)
    raise InputError(f"unknown format {name!r}; there are: {_known()}")


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
    for group in _BY_NAME:
        names = [kind.format for kind in group if kind.format in first]
        if len(names) > 1:
            these = " and ".join(f"{name} ({first[name].name})" for name in names)
            raise InputError(f"the input holds several formats, {these}; name one with --format")
        if names:
            _check_named(inputs, first, names[0])
            named = strange is not None and strange.location in inputs.locations
            if named and strange is not None and names[0] != FilesSource.format:
                raise InputError(f"{strange.name} is not of the format {names[0]}, as {first[names[0]].name} is")
            return _of_json(inputs.storage, first[names[0]], names[0])
    return _by_content(inputs, strange)


def _check_named(inputs: Inputs, first: Mapping[str, Found], chosen: str) -> None:
    """Raises InputError if a file that was named itself has another format: all named files must be read."""
    for name, found in first.items():
        both_json = {name, chosen} <= {JsonLinesSource.format, JsonSource.format}  # the content decides which
        if name != chosen and found.location in inputs.locations and not both_json:
            these = f"{chosen} ({first[chosen].name}) and {name} ({found.name})"
            raise InputError(f"the input holds several formats, {these}; name one with --format")


def _format_of(found: Found) -> str | None:
    ending = suffix(found.name)
    for kind in (kind for group in _BY_NAME for kind in group):
        if ending in kind.suffixes:
            return kind.format
    return FilesSource.format if is_url(found.location) else None


def _by_content(inputs: Inputs, strange: Found | None) -> str:
    """Detect the format from the files' first bytes; raises InputError if it is none of the known ones."""
    given = ", ".join(inputs.locations)
    if strange is None:
        left_out = f"; left out: {in_words(inputs.tally.result)}" if inputs.tally.result else ""
        raise InputError(f"the input {given} is empty{left_out}")
    if strange.name.lower().endswith(_COMPRESSED):
        raise InputError(f"{strange.name} is compressed, so that it cannot be read from the middle; unpack it first")
    if not inputs.single_file:  # perhaps images with odd names
        source = FilesSource(inputs, ImageReader(storage=inputs.storage))
        if next(source.files(), None) is not None:
            return FilesSource.format
    else:
        start = inputs.storage.read(strange.location, 511)
        if begins_as_image(start):
            return FilesSource.format
        if start.startswith(b"PAR1"):
            return ParquetSource.format
        if start[257:262] == b"ustar":
            return WebDatasetSource.format
        if decoded(start, encoding_of(start), "replace").lstrip()[:1] in ("{", "["):
            return _of_json(inputs.storage, strange, JsonLinesSource.format)
    raise InputError(f"the format of {strange.name} is not recognised; name one of {_known()} with --format")


def _of_json(storage: Storage, found: Found, name: str) -> str:
    """The format of a JSON file from its first rows; any other format is returned unchanged."""
    if name not in (JsonLinesSource.format, JsonSource.format):
        return name
    for _, row, encoding in islice(json_rows(storage, found.location, _LONGEST_LINE), _LINES_LOOKED_AT):
        try:
            parsed = parse_row(row, encoding)
        except ValueError:
            continue  # a later row may be valid
        if {"custom_id", "body"} <= parsed.keys():
            return OpenAiSource.format
        return LlavaSource.format if is_llava(parsed) else name
    return name


def _known() -> str:
    return ", ".join(kind.format for kind in FORMATS)
