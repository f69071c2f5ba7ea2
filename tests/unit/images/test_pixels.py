"""Pixels of every mode as RGB: transparency, grey of more than 8 bits, and the memory that this takes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import decode_image

from tests.unit.encoder.helpers import IMAGE_LIMITS, drawn_image, file_of, pixels_of


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


def test_16_bit_grey_keeps_its_transparency():
    values = np.full((4, 4), 7, np.uint16)
    values[0, 0] = 0
    pixels = pixels_of(file_of(Image.fromarray(values), "PNG", transparency=7))
    assert pixels[3, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [0, 0, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 0.5, 1], np.float32), [0, 128, 255]),
        (np.array([0, 0, 0], np.float32), [0, 0, 0]),
        (np.array([1, 1, 1], np.float32), [255, 255, 255]),
        (np.array([0, 2, 200], np.float32), [0, 2, 200]),
        (np.array([255, 255, 255], np.float32), [255, 255, 255]),
        (np.array([0, 500, 1000], np.float32), [0, 128, 255]),
        (np.array([-0.2, 0.5, 1.4], np.float32), [0, 128, 255]),  # overshoot of resampling
        (np.array([0, 127 / 254, 255 / 254], np.float32), [0, 128, 255]),
        (np.array([-50, 100, 310], np.float32), [0, 100, 255]),
        (np.array([0, 8, 16], np.float32), [0, 128, 255]),
        (np.array([-1, 0, 1], np.float32), [0, 128, 255]),
        (np.array([-0.1, 0, 0.1], np.float32), [0, 128, 255]),
        (np.array([-3e38, 0, 3e38], np.float32), [0, 128, 255]),
        (np.array([-4, -4, -4], np.float32), [128, 128, 128]),
        (np.array([7, 65535, 0], np.int32), [0, 255, 0]),
        (np.array([-100, 32768, 70_000], np.int32), [0, 128, 255]),
        (np.array([0, 128, 255], np.int32), [0, 128, 255]),
        (np.array([3, 40, 200], np.int32), [3, 40, 200]),
        (np.array([-9, 40, 262], np.int32), [0, 40, 255]),
        (np.array([0, 256, 514], np.uint16), [0, 1, 2]),  # a declared depth is not judged by the values
        (np.array([0, 100, 255], np.uint16), [0, 0, 1]),
        (np.array([100_000, 100_000, 100_000], np.int32), [128, 128, 128]),
        (np.array([-5, 0, 5], np.int32), [0, 128, 255]),
    ],
)
def test_wide_grey_follows_its_range(values, expected):
    pixels = pixels_of(file_of(Image.fromarray(values[None]), "TIFF"))
    assert pixels[0, :, 0].tolist() == expected


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(bad):
    values = np.array([[0, bad, 0.5]], np.float32)
    with pytest.raises(InvalidImageError, match="NaN or infinite"):
        decode_image(file_of(Image.fromarray(values), "TIFF"), IMAGE_LIMITS)


@pytest.mark.parametrize("size", [(2500, 1100), (1024, 1024), (1, 3000)])
def test_large_images_are_put_together_without_seams(size):
    width, height = size
    wide = (np.arange(width * height) % 65536).astype(np.uint16).reshape(height, width)
    assert np.array_equal(pixels_of(file_of(Image.fromarray(wide)))[:, :, 1], (wide.astype(int) * 255 + 32767) // 65535)
    alpha = drawn_image(width, height).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(size))
    whole = Image.alpha_composite(Image.new("RGBA", size, "white"), alpha).convert("RGB")
    assert np.array_equal(pixels_of(file_of(alpha)), np.asarray(whole))


PEAK_OVER_RGB = """
import io, pathlib, sys
import numpy as np
from PIL import Image
from visionsplit.images import ImageLimits, decode_image

def peak():  # of this process alone; getrusage would begin with its parent's
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

size = 4000
image = Image.new("RGBA", (size, size)) if sys.argv[1] == "alpha" else Image.fromarray(np.zeros((size, size), "uint16"))
buffer = io.BytesIO()
image.save(buffer, "TIFF" if "TIFF" in sys.argv[1] else "PNG")
del image
before = peak()
decode_image(buffer.getvalue(), ImageLimits())
print((peak() - before) / (3 * size * size))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own count")
@pytest.mark.parametrize("kind", ["alpha", "16 bits", "16 bits, TIFF"])
def test_decoding_takes_a_small_multiple_of_the_result(kind):
    ran = subprocess.run([sys.executable, "-c", PEAK_OVER_RGB, kind], capture_output=True, check=True, text=True)
    assert float(ran.stdout) < 3


def test_float_pixels_are_stretched():
    values = np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4)
    pixels = pixels_of(file_of(Image.fromarray(values), "TIFF"))
    assert pixels[0, 0].tolist() == [0, 0, 0]
    assert pixels[3, 3].tolist() == [255, 255, 255]


def test_other_modes():
    for mode, value in (("1", 1), ("L", 255), ("CMYK", (0, 0, 0, 0))):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert pixels_of(file_of(Image.new(mode, (8, 8), value), kind)).min() > 250
