"""Files made to take a service's time or memory: each is refused with a sentence, or read within bounded work."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageLimits, decode_image, read_header

from tests.unit.images.file_matrix import DATA, saved
from tests.unit.images.png_matrix import chunked

MILLION = 1_000_000
# Of processor time for a header: a busy machine needs up to 1 second, and a loop over all segments much more.
MOST_SECONDS = 3.0

PLAIN = Image.new("RGB", (64, 64), "red")
JPEG, PNG, GIF, WEBP, JPEG2000, AVIF = (
    saved(PLAIN, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "JPEG2000", "AVIF")
)
FIRST_BLOCK = GIF.index(b",")
CANVAS = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x3f\0\0\x3f\0\0"
PIXELS = PNG.index(b"IDAT") - 4
FREE_BOX = b"\0\0\0\x08free"


def text_chunks(number, name=b"tEXt"):
    return chunked([(name, b"a\0b")])[8:] * number


def riff(body):
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def with_scans(number):
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(PLAIN, "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * number + data[-2:]


def avif_with_exif(entries):
    content = struct.pack("<H", entries) + struct.pack("<HHII", 300, 7, 4, 0) * entries + bytes(4)
    return saved(PLAIN, "AVIF", exif=b"II*\0\x08\0\0\0" + content)


def png_of_size(width, height):
    return chunked([(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")])


REFUSED = {
    "JPEG of comments": (lambda: JPEG[:2] + b"\xff\xfe\0\2" * 4 * MILLION + JPEG[2:], "10000 segments"),
    "JPEG of junk": (lambda: JPEG[:20] + b"\xff\0" * 8 * MILLION + JPEG[20:], "10000 segments"),
    "JPEG of tables": (lambda: JPEG[:2] + b"\xff\xdd\0\4\0\0" * 2 * MILLION + JPEG[2:], "200 tables"),
    "JPEG of starts": (lambda: JPEG[:2] + b"\xff\xd8\xff" + b"\xd8\xff" * 4 * MILLION, "no pixels"),
    "JPEG of scans": (lambda: with_scans(60), "50 scans"),
    "PNG of texts": (lambda: PNG[:PIXELS] + text_chunks(600_000) + PNG[PIXELS:], "50000 chunks"),
    "PNG of texts behind": (lambda: PNG[:-12] + text_chunks(600_000) + PNG[-12:], "50000 chunks"),
    "PNG of palettes": (lambda: PNG[:PIXELS] + text_chunks(1000, b"PLTE") + PNG[PIXELS:], "100 headers"),
    "PPM of a comment": (lambda: b"P6\n#" + b"a" * 20 * MILLION + b"\n8 8\n255\n" + bytes(192), "65536 bytes"),
    "PPM of comments": (lambda: b"P6\n" + b"#\n" * 10 * MILLION + b"8 8\n255\n" + bytes(192), "65536 bytes"),
    "PPM of spaces": (lambda: b"P6\n" + b" " * 20 * MILLION + b"8 8\n255\n" + bytes(192), "65536 bytes"),
    "plain PPM of comments": (lambda: b"P3\n8 8\n255\n" + b"#\n" * 10 * MILLION, "1000 comments"),
    "GIF of comments": (lambda: GIF[:FIRST_BLOCK] + b"!\xfe\0" * 4 * MILLION + GIF[FIRST_BLOCK:], "50000 blocks"),
    "GIF of one comment": (lambda: GIF[:FIRST_BLOCK] + b"!\xfe" + b"\1a" * 9 * MILLION + b"\0", "50000 blocks"),
    "WebP of chunks": (lambda: riff(CANVAS + b"abcd\0\0\0\0" * MILLION + WEBP[12:]), "20000 chunks"),
    "JPEG 2000 of boxes": (lambda: JPEG2000[:12] + FREE_BOX * MILLION + JPEG2000[12:], "1000 boxes"),
    "JPEG 2000 without a header": (lambda: JPEG2000[:12] + b"\0\0\0\x08jp2c" + FREE_BOX * MILLION, "1000"),
    "AVIF of boxes": (lambda: AVIF[:32] + FREE_BOX * MILLION + AVIF[32:], "10000 boxes"),
    "AVIF of tags": (lambda: avif_with_exif(30_000), "of EXIF"),
    "HEIC of boxes": (lambda: (DATA / "waves.heic").read_bytes() + FREE_BOX * MILLION, "10000 boxes"),
    "PNG of one column": (lambda: png_of_size(1, 60 * MILLION), "65535"),
    "PNG of one row": (lambda: png_of_size(60 * MILLION, 1), "65535"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_take_long_is_refused_at_once(name):
    make, named = REFUSED[name]
    data = make()
    reads = (decode_image,) if "scans" in name else (read_header, decode_image)
    for read in reads:
        started = time.thread_time()
        with pytest.raises(InvalidImageError, match=named):
            read(data, ImageLimits())
        assert time.thread_time() - started < MOST_SECONDS


READ = {
    "JPEG with many segments": lambda: JPEG[:2] + (b"\xff\xe2\xff\xff" + bytes(65533)) * 200 + JPEG[2:],
    "JPEG with many comments": lambda: JPEG[:2] + b"\xff\xfe\0\2" * 9000 + JPEG[2:],
    "JPEG with fill bytes": lambda: JPEG[:2] + b"\xff" * 10 * MILLION + JPEG[2:],
    "JPEG with junk": lambda: JPEG[:20] + bytes(10 * MILLION) + JPEG[20:],
    "JPEG with a video": lambda: JPEG + b"\xff\xda" * MILLION,
    "JPEG with comments between scans": lambda: JPEG[:-2] + b"\xff\xfe\0\2" * 2 * MILLION + JPEG[-2:],
    "PNG with many texts": lambda: PNG[:PIXELS] + text_chunks(40_000) + PNG[PIXELS:],
    "PNG with many empty chunks": lambda: PNG[:PIXELS] + chunked([(b"IDAT", b"")])[8:] * 40_000 + PNG[PIXELS:],
    "PNG with a large block of tags": lambda: PNG[:PIXELS] + text_chunks(1, b"eXIf") + PNG[PIXELS:],
    "GIF with many comments": lambda: GIF[:FIRST_BLOCK] + b"!\xfe\1a\0" * 20_000 + GIF[FIRST_BLOCK:],
    "GIF with junk": lambda: GIF[:FIRST_BLOCK] + b"\1" * 5 * MILLION + GIF[FIRST_BLOCK:],
    "WebP with many chunks": lambda: riff(CANVAS + b"abcd\0\0\0\0" * 15_000 + WEBP[12:]),
    "PPM with a long comment": lambda: b"P6\n#" + b"a" * 60_000 + b"\n64 64\n255\n" + PLAIN.tobytes(),
}


@pytest.mark.parametrize("name", READ)
def test_what_takes_little_is_read(name):
    data = READ[name]()
    started = time.thread_time()
    header = read_header(data, ImageLimits())
    assert time.thread_time() - started < MOST_SECONDS
    assert (header.width, header.height) == PLAIN.size
    pixels = np.asarray(decode_image(data, ImageLimits())).astype(int)
    assert np.abs(pixels - np.asarray(PLAIN)).max() <= 5


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_a_long_animation_shows_its_first_frame(kind):
    frames = [Image.fromarray(np.full((8, 8, 3), number % 250, np.uint8)) for number in range(3000)]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[7].save(buffer, kind, save_all=True, append_images=frames, **options)
    assert decode_image(buffer.getvalue(), ImageLimits()).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(("largest", "samples"), [(100, 1), (300, 1), (4095, 3), (31, 3), (65535, 3)])
def test_every_maximum_of_a_pgm_is_scaled_without_a_loop(largest, samples):
    values = (np.arange(1200 * 1000 * samples) % (largest + 1)).reshape(1000, 1200, samples)
    stored = values.astype(np.uint8 if largest < 256 else ">u2").tobytes()
    data = b"P%d 1200 1000 %d\n" % (5 if samples == 1 else 6, largest) + stored
    started = time.thread_time()
    pixels = np.asarray(decode_image(data, ImageLimits())).astype(int)
    assert time.thread_time() - started < MOST_SECONDS
    assert np.abs(pixels - np.round(values * 255 / largest)).max() <= 1


def test_tags_of_a_tiff_that_share_their_bytes_take_no_memory():
    shared = 8 * MILLION
    kinds = [(tag, 7, shared) for tag in (266, 274, 284, 292, 293, 317, 330, 332, 338, 347, 530, 532)]
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 64)]
    entries = [struct.pack("<HHII", *tag) for tag in tags] + [struct.pack("<HHII", *kind, 8) for kind in kinds]
    data = b"II*\0" + struct.pack("<I", 8 + shared) + bytes(shared)
    data += struct.pack("<H", len(entries)) + b"".join(sorted(entries)) + bytes(4)
    tracemalloc.start()
    try:
        assert read_header(data, ImageLimits()).width == 8
        assert tracemalloc.get_traced_memory()[1] < shared / 4
    finally:
        tracemalloc.stop()


def test_the_memory_for_decoding_grows_with_what_a_format_takes():
    size = (2000, 1000)
    image = Image.new("RGB", size)
    costs = {
        kind: read_header(saved(image, kind), ImageLimits()).decoding_bytes / (size[0] * size[1])
        for kind in ("JPEG", "PNG", "WEBP", "JPEG2000")
    }
    assert 4 <= costs["JPEG"] < costs["PNG"] < costs["WEBP"] < costs["JPEG2000"]
    progressive = read_header(saved(image, "JPEG", progressive=True), ImageLimits())
    assert progressive.decoding_bytes >= 12 * size[0] * size[1]


def test_a_png_in_one_chunk_for_each_byte_is_read():
    row = zlib.compress(b"".join(b"\0" + bytes(range(24)) for _ in range(8)))
    parts = [(b"IDAT", bytes([one])) for one in row]
    data = chunked([(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)), *parts, (b"IEND", b"")])
    assert np.asarray(decode_image(data, ImageLimits())).reshape(8, 24).tolist() == [list(range(24))] * 8
