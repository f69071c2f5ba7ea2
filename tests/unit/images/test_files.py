"""Image files as users have them, and files that are not images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageLimits, decode_image

from tests.unit.encoder.helpers import IMAGE_LIMITS, drawn_image, file_of, pixels_of
from tests.unit.images.png_matrix import COLOUR, png
from tests.unit.images.variants import samples


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG"])
def test_every_format_keeps_size_and_rough_colour(kind):
    image = drawn_image(40, 30)
    options = {"lossless": True} if kind == "WEBP" else {}
    difference = np.abs(pixels_of(file_of(image, kind, **options)).astype(int) - np.asarray(image).astype(int))
    assert difference.mean() < (0.01 if kind in ("PNG", "BMP", "TIFF", "PPM", "WEBP") else 20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:5, :10] = (255, 0, 0)  # top left
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"quality": 100, "subsampling": "4:4:4"}
    options = {"WEBP": {"lossless": True}, "JPEG": exact, "AVIF": exact}.get(kind, {})
    pixels = pixels_of(file_of(stored, kind, exif=exif, **options)).astype(int)
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).max() <= {"JPEG": 8, "AVIF": 1}.get(kind, 0)


def test_exif_behind_the_pixels_of_a_png_is_applied():
    turned = png(samples(8, 6, 3, 8), COLOUR, 8, extra=[(b"eXIf", exif_of((0x0112, 3, 1, b"\6\0\0\0"))[6:])])
    start, end = turned.index(b"eXIf") - 4, turned.index(b"IDAT") - 4
    last = turned.index(b"IEND") - 4
    behind = turned[:start] + turned[end:last] + turned[start:end] + turned[last:]
    assert pixels_of(turned).shape == (6, 8, 3)
    assert np.array_equal(pixels_of(behind), pixels_of(turned))


def exif_of(*tags):
    """Raw EXIF of (tag, type, count, value of 4 bytes), which Pillow would not write."""
    directory = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4)


@pytest.mark.parametrize(
    "odd",
    [
        (0x010F, 3, 1, b"\7\0\0\0"),  # the maker's name as a number
        (0x8769, 2, 4, b"abc\0"),  # the place of further tags as text
        (0x8769, 4, 1, b"\xff\xff\xff\x7f"),  # beyond the file's end
        (0x0100, 11, 1, struct.pack("<f", 1.5)),
        (0x011A, 7, 4, b"abcd"),
        (0x0101, 9, 1, struct.pack("<i", -5)),
    ],
)
def test_an_odd_tag_beside_the_orientation_does_no_harm(odd):
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:, :10] = 255  # the left edge is the top once turned
    exif = exif_of((0x0112, 3, 1, b"\6\0\0\0"), odd)
    pixels = pixels_of(file_of(Image.fromarray(stored), "JPEG", exif=exif, quality=100))
    assert pixels.shape == (30, 20, 3)
    assert pixels[:8].min() > 200
    assert pixels[12:].max() < 50


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", exif_of((0x0112, 2, 4, b"six\0"))]
)
def test_exif_that_cannot_be_read_is_left_aside(exif):
    assert pixels_of(file_of(drawn_image(30, 20), "JPEG", exif=exif)).shape == (20, 30, 3)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_cut_off_anywhere_is_refused(kind):
    data = file_of(drawn_image(60, 60), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(InvalidImageError):
            decode_image(data[: int(len(data) * share)], IMAGE_LIMITS)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"%PDF-1.4 ...", b"<svg xmlns='x'/>", b"%!PS-Adobe EPSF"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(InvalidImageError) as caught:
        decode_image(data, IMAGE_LIMITS)
    assert "0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_raise_nothing_else():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        data = bytearray(file_of(drawn_image(40, 40), kind))
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(0, len(broken), 8):
                broken[place] = int(rng.integers(0, 256))
            try:
                decode_image(bytes(broken), ImageLimits(max_pixels=100_000))
            except InvalidImageError:
                continue


def bomb(width, height):
    """A PNG of few bytes that announces many pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (60_000, 60_000)])
def test_a_bomb_is_refused_by_its_header(width, height):
    with pytest.raises(InvalidImageError, match="64000000"):
        decode_image(bomb(width, height), IMAGE_LIMITS)


def test_an_ordinary_image_is_left_alone():
    image = drawn_image(33, 21)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.array_equal(pixels_of(buffer.getvalue()), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_may_lack_only_the_marker_that_ends_it(mode):
    data = file_of(drawn_image(75, 61).convert(mode), "JPEG")
    for missing in (1, 2):
        assert np.array_equal(pixels_of(data[:-missing]), pixels_of(data))
    for missing in (*range(3, 30), 200, len(data) // 3):
        with pytest.raises(InvalidImageError, match="cut off"):
            decode_image(data[:-missing], IMAGE_LIMITS)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_may_be_incomplete_without_its_end_is_refused(options):
    data = file_of(drawn_image(75, 61), "JPEG", **options)
    for missing in range(3, 60):
        with pytest.raises(InvalidImageError, match="cut off"):
            decode_image(data[:-missing], IMAGE_LIMITS)
