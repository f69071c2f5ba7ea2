"""A picture as a row has it: a path, a URL, bytes, or bytes and a path."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionsplit.images import begins_as_image
from visionsplit.network.locations import is_data_url
from visionsplit_client import Limits, Timeouts, read_image

from visionsplit_batch.storage.storage import Storage, join, local_path, parse

_SHORTEST_BASE64 = 40  # characters; few pictures are smaller


@dataclass(frozen=True)
class Pictures:
    """Reads pictures' files, within limits. What cannot be read is raised: see `read_image`, `Storage`, ValueError."""

    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    storage: Storage = field(default_factory=Storage)
    root: str | None = None  # absolute: where relative paths begin, instead of the folder of the file that has them

    def of_cell(self, value: Any, folder: str) -> tuple[bytes, ...]:  # noqa: ANN401 - whatever a table's cell holds
        """The pictures of a table's cell, which is one picture or a list of them.

        Args:
            value: a path or URL, bytes, base64 text, or {"bytes": ..., "path": ...} as the datasets library has them.
            folder: where relative paths begin, unless `root` is given.

        Raises:
            ValueError: also an empty cell.
        """
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if not value:
                raise ValueError("the list of images is empty")
            return tuple(self._of_value(element, folder) for element in value)
        return (self._of_value(value, folder),)

    def at(self, location: str) -> bytes:
        """The picture at an absolute path or a URI: http(s) is fetched, stores are read."""
        uri = parse(location)
        if uri is None:
            return self.checked(Path(local_path(location)))
        if uri.scheme in ("http", "https"):
            return self.checked(location)
        return self.checked(self.storage.read(location, self.limits.max_image_bytes))

    def from_text(self, text: str, folder: str) -> bytes:
        """The picture that a path (also relative to `folder`) or a URL names, or that a data: URL holds."""
        if is_data_url(text):
            return self.checked(text)
        return self.at(self.resolve(text, folder))

    def resolve(self, text: str, folder: str) -> str:
        """The absolute location that a path or URL in a file in `folder` means."""
        if parse(text) is not None or text.startswith(("file://", "/")) or is_data_url(text):
            return text
        return join(self.root or folder, text)

    def _of_value(self, value: Any, folder: str) -> bytes:  # noqa: ANN401
        if isinstance(value, Mapping) and value.keys() <= {"bytes", "path"}:
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return self.checked(value)
        if isinstance(value, str) and value:
            is_image = begins_as_image(base64_head(value))
            return self.checked(_base64(value)) if is_image else self.from_text(value, folder)
        if not value:
            raise ValueError("the row has no image")
        raise ValueError(f"{type(value).__name__} is no image; a path, a URL, bytes or base64 text is needed")

    def checked(self, source: bytes | str | Path) -> bytes:
        """The picture's bytes, unless there are none or too many."""
        return read_image(source, limits=self.limits, timeouts=self.timeouts)


def base64_head(text: str) -> bytes:
    """The first bytes of what base64 text holds; none of text that is a name: those have a dot, or are shorter."""
    if len(text) < _SHORTEST_BASE64 or "." in text:
        return b""
    try:
        return base64.b64decode(text[:_SHORTEST_BASE64], validate=True)
    except (binascii.Error, ValueError):  # the second of text that is not ASCII
        return b""


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is no base64 text: {error}") from error
