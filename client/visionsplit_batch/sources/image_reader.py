"""Reads a row's images: paths, URLs, bytes, or bytes with a path."""

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

_SHORTEST_BASE64 = 40  # characters; few images are smaller


@dataclass(frozen=True)
class ImageReader:
    """Reads image files, within limits. Errors are those of `read_image` and `Storage`, and ValueError."""

    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    storage: Storage = field(default_factory=Storage)
    root: str | None = None  # absolute folder for relative paths, instead of the folder of the file that has them

    def of_cell(self, value: Any, folder: str) -> tuple[bytes, ...]:  # noqa: ANN401 - a cell may hold any type
        """The images of a table's cell, which is one image or a list of them.

        Args:
            value: a path or URL, bytes, base64 text, or {"bytes": ..., "path": ...} as in the datasets library.
            folder: the folder for relative paths, unless `root` is set.

        Raises:
            ValueError: also if the cell is empty.
        """
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if not value:
                raise ValueError("the list of images is empty")
            return tuple(self._of_value(element, folder) for element in value)
        return (self._of_value(value, folder),)

    def at(self, location: str) -> bytes:
        """The image at an absolute path or a URI: http(s) is fetched, stores are read."""
        uri = parse(location)
        if uri is None:
            return self.checked(Path(local_path(location)))
        if uri.scheme in ("http", "https"):
            return self.checked(location)
        return self.checked(self.storage.read(location, self.limits.max_image_bytes))

    def from_text(self, text: str, folder: str) -> bytes:
        """The image that a path (also relative to `folder`) or a URL names, or that a data: URL contains."""
        if is_data_url(text):
            return self.checked(text)
        return self.at(self.resolve(text, folder))

    def resolve(self, text: str, folder: str) -> str:
        """The absolute location of a path or URL that is written in a file in `folder`."""
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
        raise ValueError(f"{type(value).__name__} is not an image; a path, a URL, bytes or base64 text is needed")

    def checked(self, source: bytes | str | Path) -> bytes:
        """The image's bytes, if there are any and not too many."""
        return read_image(source, limits=self.limits, timeouts=self.timeouts)


def base64_head(text: str) -> bytes:
    """The first decoded bytes of base64 text; empty for text that is a name, which has a dot or is shorter."""
    if len(text) < _SHORTEST_BASE64 or "." in text:
        return b""
    try:
        return base64.b64decode(text[:_SHORTEST_BASE64], validate=True)
    except (binascii.Error, ValueError):  # ValueError if the text is not ASCII
        return b""


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is not base64 text: {error}") from error
