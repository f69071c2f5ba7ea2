"""Images in the forms that callers have them. URLs are tested in test_web."""

import base64
import io
import os
import tempfile
import zipfile
from pathlib import Path
from typing import IO
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import pillow_to_rgb
from visionsplit_client import Client, Limits, Timeouts
from visionsplit_client._images import as_sources, read_image

LIMITS, TIMEOUTS = Limits(max_image_bytes=5000), Timeouts(fetch=5)


def read(source, limits=LIMITS, timeouts=TIMEOUTS):
    return read_image(source, limits=limits, timeouts=timeouts)


class Named(os.PathLike):
    """A path that is not a pathlib.Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def spooled(path: Path) -> tempfile.SpooledTemporaryFile:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the test closes it
    file.write(path.read_bytes())
    file.seek(0)
    return file


def member(path: Path) -> IO[bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.write(path, "a.png")
    return zipfile.ZipFile(buffer).open("a.png")


FORMS = {
    "path": str,
    "Path": lambda path: path,
    "PathLike": Named,
    "file URL": lambda path: path.as_uri(),
    "data URL": lambda path: "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
    "data URL in percent": lambda path: "DATA:," + quote_from_bytes(path.read_bytes()),
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "unbuffered file": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "spooled file": spooled,
    "member of an archive": member,
    "dict with bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
    "dict with both": lambda path: {"bytes": path.read_bytes(), "path": "train/no-such-file.png"},
    "dict with a path": lambda path: {"bytes": None, "path": str(path)},
    "dict with bytes alone": lambda path: {"bytes": path.read_bytes()},
    "dict with a Path": lambda path: {"path": path},
    "dict with a bytearray": lambda path: {"bytes": bytearray(path.read_bytes())},
    "dict with no bytes and a path": lambda path: {"bytes": b"", "path": str(path)},
    "text of NumPy": lambda path: np.str_(path),
    "data URL behind a blank": lambda path: " data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_gives_its_bytes(image_path, form):
    (source,) = as_sources(FORMS[form](image_path))
    assert read(source) == image_path.read_bytes()
    if hasattr(source, "close"):
        source.close()


def test_an_open_file_is_read_from_where_it_stands(image_path):
    file = io.BytesIO(b"head" + image_path.read_bytes())
    file.seek(4)
    assert read(file) == image_path.read_bytes()
    with pytest.raises(InvalidImageError, match="no bytes from its current position on"):
        read(file)


def test_a_file_without_an_end_is_not_read_for_ever():
    with Path("/dev/zero").open("rb") as file, pytest.raises(InvalidImageError, match="the file has more than 5000"):
        read(file)


@pytest.mark.parametrize(
    "url",
    [
        "data:;base64,iVBORw0KGgo=",
        "data:image/png;base64,iVBORw0KGgo",  # browsers do without the padding
        "data:image/png;name=a.png;BASE64,iVBOR\n  w0KGgo%3D",
        "Data:,%89PNG%0D%0a%1A%0A",
    ],
)
def test_forms_of_data_urls(url):
    assert read(url) == b"\x89PNG\r\n\x1a\n"


def test_base64_for_urls():
    assert read("data:;base64,-_8=") == b"\xfb\xff"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "data:image/png;base64," + "!" * 30000,
            r"data:image/png;base64,… \(30022 characters\): its base64 is damaged",
        ),
        ("data:image/png;base64", "needs a comma"),
        ("data:image/png;base64,", "no bytes"),
        ("data:;base64," + "A" * 8000, "has more than 5000 bytes"),
    ],
)
def test_data_urls_that_hold_no_image(url, says):
    with pytest.raises(InvalidImageError, match=says) as raised:
        read(url)
    assert len(str(raised.value)) < 200


def test_base64_without_its_url_is_named_shortly(image_path):
    text = base64.b64encode(image_path.read_bytes()).decode() * 20
    with pytest.raises(OSError, match="base64 text needs data:image/png;base64, in front") as raised:
        read(text)
    assert len(str(raised.value)) < 400


def test_a_pillow_image_that_is_not_loaded_is_sent_as_its_file(image_path):
    with Image.open(image_path) as image:
        assert read(image) == image_path.read_bytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I", "I;16", "I;16B", "F", "CMYK"])
def test_other_pillow_images_are_sent_as_8_bit_rgb(mode):
    rgb = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(rgb).convert("L" if mode[0] == "I" else "RGB").convert(mode)
    decoded = Image.open(io.BytesIO(read(image)))
    assert (decoded.format, decoded.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(decoded), np.asarray(pillow_to_rgb(image)))


def test_a_pillow_image_is_turned_upright_like_its_file():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    image = Image.open(buffer)
    image.load()
    assert Image.open(io.BytesIO(read(image))).size == (20, 40)


def test_one_several_or_none(image_path):
    assert as_sources(None) == []
    assert as_sources(str(image_path)) == [str(image_path)]
    assert as_sources([image_path, b"x"]) == [image_path, b"x"]
    assert as_sources({"bytes": b"x", "path": None}) == [{"bytes": b"x", "path": None}]
    assert as_sources(path for path in (image_path, image_path)) == [image_path, image_path]


def test_an_open_file_is_one_image(services, image_path):
    with Client(services.encoder_address) as client, image_path.open("rb") as file:
        client.generate(file, "?")
        client.generate((part for part in [image_path, {"bytes": None, "path": str(image_path)}]), "?")
    sent = [[image.data for image in request.images] for request in services.encoder.script.requests]
    assert sent == [[image_path.read_bytes()], [image_path.read_bytes()] * 2]


class Response:
    """As of an HTTP library: one thing, whose bytes can be iterated."""

    def __iter__(self):
        return iter([b"some", b"bytes"])


class Text:
    async def read(self, size: int) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (7, "int is not an image; give a path"),
        (np.zeros((4, 4, 3), np.uint8), "ndarray is not an image; PIL.Image.fromarray makes one"),
        (io.StringIO("text"), "StringIO gives text; open the file with mode 'rb'"),
        (Response(), "Response is not an image"),
        (np.array(["a.png", "b.png"]), r"list\(\) a list of paths"),
        ("  ", "the image's path is empty"),
        (Text(), "reading Text gives coroutine"),
        ({"image": b"x"}, "'bytes' and 'path', not 'image'"),
        ({"bytes": "x"}, "'bytes' of an image's dict is str, not bytes"),
        (object(), "object is not an image"),
    ],
    ids=[
        "number",
        "array",
        "text file",
        "iterable of bytes",
        "array of paths",
        "no path",
        "file of an event loop",
        "keys",
        "values",
        "object",
    ],
)
def test_objects_that_are_not_images(source, says):
    with pytest.raises((TypeError, ValueError), match=says):
        read(*as_sources(source))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("no-such-file.png", FileNotFoundError),
        (b"", InvalidImageError),
        (b"x" * 5001, InvalidImageError),
        ({"bytes": None, "path": None}, ValueError),
        ("no-such-folder\0.png", ValueError),
        ("ftp://host/image.png", ValueError),
        ("file://elsewhere/image.png", ValueError),
        (Image.fromarray(np.array([[np.nan]], np.float32)), InvalidImageError),
    ],
    ids=["no file", "empty", "too large", "empty dict", "null byte", "ftp", "another host", "not a number"],
)
def test_mistakes(source, error):
    with pytest.raises(error):
        read(source)
