"""WebDataset shards: tar files in which consecutive members with the same key form a sample."""

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa
from visionsplit.images import SUFFIXES

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Entry
from visionsplit_batch.sources.base import RowSource
from visionsplit_batch.sources.files import readable
from visionsplit_batch.sources.image_reader import ImageReader
from visionsplit_batch.sources.inputs import Found, Inputs
from visionsplit_batch.sources.table import Columns
from visionsplit_batch.sources.text import decoded, encoding_of
from visionsplit_batch.storage.storage import parse

_IMAGE, _JSON, _TEXT = range(3)
_FIELD_KINDS = {"json": _JSON, "txt": _TEXT}
_STORE_BUFFER_BYTES = 1 << 22  # since each read from a store is a request


@dataclass(frozen=True)
class Member:
    """A file inside a shard."""

    key: str  # its folder, and its name up to the first dot
    suffix: str  # the name after that dot, in lower case
    place: tuple[int, int] = field(compare=False)  # offset and number of its bytes in the shard


class WebDatasetSource(RowSource[pa.NativeFile]):
    """Shards. The place is a kind, an offset and a size for each member that is read: images, .json and .txt.

    The id is the key, preceded by the shard's name if the input is not a single shard, since each shard may use the
    same keys. Fields are those of the .json member, and the .txt member as "txt". Images are members such as "key.jpg";
    in samples without one, members such as "key.left.jpg". `Columns.image` selects one suffix instead, as "left.jpg".
    """

    format = "webdataset"
    suffixes = frozenset({".tar"})

    def __init__(self, inputs: Inputs, image_reader: ImageReader, columns: Columns) -> None:
        """Raises InputError if a column of ids is named, since keys are the ids."""
        super().__init__(inputs, image_reader)
        if columns.id is not None:
            raise InputError("the ids of a WebDataset are its keys; name no column for them")
        self._columns = columns
        self._one_file = inputs.single_file

    def options(self) -> Mapping[str, Any]:
        return {"columns": self._columns.settings()}

    def list_rows(self) -> Iterator[Entry]:
        for found in self.files():
            before = "" if self._one_file else f"{readable(found.name).removesuffix('.tar')}/"
            for key, sample in groupby(self._members(found), key=lambda member: member.key):
                yield Entry(before + key, found.location, self._place(list(sample)))

    def where(self, entry: Entry) -> str:
        return f"byte {min(entry.place[1::3], default=0)} of {readable(entry.path)}"

    def open_file(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        file: AbstractContextManager[pa.NativeFile] = self.inputs.storage.open(path)
        return file

    def read_row(self, file: pa.NativeFile, entry: Entry) -> Content:
        images: list[bytes] = []
        fields: dict[str, Any] = {}
        limit = self.image_reader.limits.max_image_bytes
        for kind, offset, size in zip(entry.place[::3], entry.place[1::3], entry.place[2::3], strict=True):
            file.seek(offset)
            data = file.read(min(size, limit + 1))
            if kind == _IMAGE:
                images.append(self.image_reader.checked(data))
            elif len(data) > limit:
                raise ValueError(f"a .json or .txt member has {size} bytes, more than the {limit} that are read")
            else:
                fields |= _json(data) if kind == _JSON else {"txt": _text(data)}
        if not images:
            raise ValueError(f"the sample has no image{f' .{self._columns.image}' if self._columns.image else ''}")
        questions = self._columns.questions(fields)
        kept = {name: value for name, value in fields.items() if self._columns.takes(name)}
        kept.pop(self._columns.prompt or "", None)
        return Content(images=tuple(images), questions=questions, fields=kept)

    def _place(self, sample: list[Member]) -> tuple[int, ...]:
        wanted = self._columns.image
        if wanted is not None:
            images = [member for member in sample if member.suffix == wanted.lower()]
        else:
            candidates = [member for member in sample if posixpath.splitext(f"x.{member.suffix}")[1] in SUFFIXES]
            images = [member for member in candidates if "." not in member.suffix] or candidates
        kinds = [(_IMAGE, member) for member in images]
        kinds += [(_FIELD_KINDS[member.suffix], member) for member in sample if member.suffix in _FIELD_KINDS]
        return tuple(number for kind, member in kinds for number in (kind, *member.place))

    def _members(self, found: Found) -> Iterator[Member]:
        """The shard's files in their order. Only headers are read, except from stores."""
        buffer_bytes = io.DEFAULT_BUFFER_SIZE if parse(found.location) is None else _STORE_BUFFER_BYTES
        try:
            opened: Any = self.inputs.storage.open(found.location)  # has io.RawIOBase's interface without inheriting
            with io.BufferedReader(opened, buffer_bytes) as file:
                for info in _infos(file):
                    if not (info.isreg() or info.isdir()):
                        self.inputs.tally.add(f"{found.name}: {info.name}", "special")
                    elif info.isreg() and (member := _member(info)) is not None:
                        yield member
        except (OSError, tarfile.TarError) as error:
            raise InputError(
                f"{found.location} cannot be read as a tar file: {error}; compressed files have to be unpacked first"
            ) from error


def _infos(file: io.BufferedReader) -> Iterator[tarfile.TarInfo]:
    """The members of the archives in a file, of which there are several in the output of `cat a.tar b.tar`.

    Raises:
        tarfile.TarError: the file is not an archive, is truncated, or has other data after one.
    """
    offset: int | None = 0
    while offset is not None:
        file.seek(offset)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # the library would keep all of them
                yield info
            offset = _next_archive(file, tar.offset)


def _next_archive(file: io.BufferedReader, offset: int) -> int | None:
    """The offset of the next block that is not zeros after the end of an archive; None if there is none.

    The library takes a truncated or damaged header for the end of the file, so the end is checked here.

    Raises:
        tarfile.ReadError: there is other data than an end at `offset`.
    """
    zeros = bytes(tarfile.BLOCKSIZE)
    file.seek(offset)
    if (block := file.read(tarfile.BLOCKSIZE)) not in (b"", zeros):
        raise tarfile.ReadError(
            f"the header at byte {offset} is {'broken' if len(block) == tarfile.BLOCKSIZE else 'cut off'}"
        )
    while block == zeros:
        offset += len(block)
        block = file.read(tarfile.BLOCKSIZE)
    return offset if block.strip(b"\0") else None


def _member(info: tarfile.TarInfo) -> Member | None:
    folder, _, name = info.name.removeprefix("./").rpartition("/")
    stem, _, suffix = name.partition(".")
    if not stem:  # the name begins with a dot
        return None
    key = f"{folder}/{stem}" if folder else stem
    return Member(readable(key), suffix.lower(), (info.offset_data, info.size))


def _text(data: bytes) -> str:
    """Decode text of any encoding: bytes that are not UTF-8 are kept, and only asking about them fails."""
    return data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").rstrip("\r\n")


def _json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(decoded(data, encoding_of(data)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the .json member is not JSON: {error}") from error
    return document if isinstance(document, dict) else {"json": document}
