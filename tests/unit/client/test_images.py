"""Pictures as callers have them."""

import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import held_to_rgb
from visionsplit_client import ImageFetchError, Limits, Timeouts
from visionsplit_client._images import as_sources, read_image

LIMITS, TIMEOUTS = Limits(max_image_bytes=5000), Timeouts(fetch=5)


def read(source, limits=LIMITS, timeouts=TIMEOUTS):
    return read_image(source, limits=limits, timeouts=timeouts)


@pytest.mark.parametrize("form", [str, lambda path: path, lambda path: path.as_uri(), lambda path: path.read_bytes()])
def test_every_form_of_a_file_gives_its_bytes(picture, form):
    assert read(form(picture)) == picture.read_bytes()


def test_a_pillow_image_that_is_not_loaded_is_sent_as_its_file(picture):
    with Image.open(picture) as image:
        assert read(image) == picture.read_bytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I", "I;16", "I;16B", "F", "CMYK"])
def test_other_pillow_images_are_sent_as_8_bit_rgb(mode):
    rgb = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    image = Image.fromarray(rgb).convert("L" if mode[0] == "I" else "RGB").convert(mode)
    decoded = Image.open(io.BytesIO(read(image)))
    assert (decoded.format, decoded.mode) == ("PNG", "RGB")
    assert np.array_equal(np.asarray(decoded), np.asarray(held_to_rgb(image)))


def test_a_pillow_image_is_turned_upright_like_its_file():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    image = Image.open(buffer)
    image.load()
    assert Image.open(io.BytesIO(read(image))).size == (20, 40)


def test_one_several_or_none(picture):
    assert as_sources(None) == []
    assert as_sources(str(picture)) == [str(picture)]
    assert as_sources([picture, b"x"]) == [picture, b"x"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("no-such-file.png", FileNotFoundError),
        (b"", InvalidImageError),
        (b"x" * 5001, InvalidImageError),
        (7, TypeError),
        ("ftp://host/picture.png", ValueError),
        ("file://elsewhere/picture.png", ValueError),
        (Image.fromarray(np.array([[np.nan]], np.float32)), InvalidImageError),
    ],
    ids=["no file", "empty", "too large", "a number", "ftp", "another host", "not a number"],
)
def test_mistakes(source, error):
    with pytest.raises(error):
        read(source)


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/picture")
        elif self.path == "/in-circles":
            self.send_response(302)
            self.send_header("Location", "/in-circles")
        elif self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
        elif self.path == "/to-ftp":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/x")
        else:
            self.send_response({"/picture": 200, "/large": 200, "/slow": 200}.get(self.path, 404))
        self.end_headers()
        if self.path == "/slow":
            self.server.release.wait(20)
        self.wfile.write(b"x" * (6000 if self.path == "/large" else 10))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.release = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_fetched(web):
    assert read(f"{web}/picture") == b"x" * 10
    assert read(f"{web}/redirect") == b"x" * 10


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("/missing", ImageFetchError, "404"),
        ("/large", InvalidImageError, "more than 5000 bytes"),
        ("/to-a-file", ImageFetchError, "cannot fetch"),
        ("/to-ftp", ImageFetchError, "cannot fetch"),
        ("/in-circles", ImageFetchError, "infinite loop"),
    ],
)
def test_urls_that_fail(web, path, error, text):
    with pytest.raises(error, match=text):
        read(web + path)


def test_a_slow_url_ends(web):
    with pytest.raises(ImageFetchError, match="timed out"):
        read(f"{web}/slow", timeouts=Timeouts(fetch=0.2))


def test_a_dead_host(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ImageFetchError, match="refused"):
        read("http://127.0.0.1:1/picture")
