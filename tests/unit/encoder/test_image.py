"""Images as people have them, and files that are not images."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError

from encoder_service.image import ImageLimits, decode_image
from tests.unit.encoder.helpers import file_of, picture

LIMITS = ImageLimits()


def pixels_of(data, limits=LIMITS):
    image = decode_image(data, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG"])
def test_every_format_keeps_size_and_rough_colour(kind):
    image = picture(40, 30)
    options = {"lossless": True} if kind == "WEBP" else {}
    difference = np.abs(pixels_of(file_of(image, kind, **options)).astype(int) - np.asarray(image).astype(int))
    assert difference.mean() < (0.01 if kind in ("PNG", "BMP", "TIFF", "PPM", "WEBP") else 20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
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
    assert np.array_equal(pixels_of(file_of(stored, kind, exif=exif)), upright)


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    rgba.putpixel((1, 0), (10, 20, 30, 255))
    grey = Image.new("LA", (4, 4), (0, 0))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    for data, opaque in (
        (file_of(rgba), (10, 20, 30)),
        (file_of(grey), None),
        (file_of(palette, transparency=0), (200, 0, 0)),
        (file_of(Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3)), None),
    ):
        pixels = pixels_of(data)
        assert pixels[3, 3].tolist() == [255, 255, 255]
        if opaque:
            assert tuple(pixels[0, 1]) == opaque


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pgm = b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes()
    data = pgm if kind == "PPM" else file_of(Image.fromarray(ramp), kind)
    expected = np.round(ramp / 65535 * 255)
    assert (np.abs(pixels_of(data)[:, :, 0] - expected) <= 1).all()


def test_16_bit_grey_with_orientation():
    values = np.zeros((4, 6), np.uint16)
    values[0, :] = 65535
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = pixels_of(file_of(Image.fromarray(values), "PNG", exif=exif))
    assert pixels[3].min() == 255
    assert pixels[:3].max() == 0


def test_float_pixels_are_stretched():
    values = np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4)
    pixels = pixels_of(file_of(Image.fromarray(values), "TIFF"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[3, 3].tolist() == [255, 255, 255]
    values[0, 0] = np.nan
    with pytest.raises(InvalidImageError, match="NaN or infinite"):
        decode_image(file_of(Image.fromarray(values), "TIFF"), LIMITS)


def test_other_modes():
    for mode, value in (("1", 1), ("L", 255), ("CMYK", (0, 0, 0, 0))):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert pixels_of(file_of(Image.new(mode, (8, 8), value), kind)).min() > 250


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels_of(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_file_cut_off_anywhere_is_refused(kind):
    data = file_of(picture(60, 60), kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        with pytest.raises(InvalidImageError):
            decode_image(data[: int(len(data) * share)], LIMITS)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"%PDF-1.4 ...", b"<svg xmlns='x'/>", b"%!PS-Adobe EPSF"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(InvalidImageError) as caught:
        decode_image(data, LIMITS)
    assert "0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_raise_nothing_else():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        data = bytearray(file_of(picture(40, 40), kind))
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
        decode_image(bomb(width, height), LIMITS)


def test_an_ordinary_image_is_left_alone():
    image = picture(33, 21)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.array_equal(pixels_of(buffer.getvalue()), np.asarray(image))
