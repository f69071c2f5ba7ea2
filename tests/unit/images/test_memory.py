"""Decoding takes at most the memory that the header estimates."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from visionsplit.images import ImageLimits, read_header

from encoder_service.config import EncoderConfig

MILLION = 1_000_000
SIDE = 2000
SCRIPT = """
import re, sys
from visionsplit.images import ImageLimits, decode_image

def status(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10

small, path = sys.argv[1:]
decode_image(open(small, "rb").read(), ImageLimits())  # so that libraries are loaded
before = status("VmRSS")
data = open(path, "rb").read()
open("/proc/self/clear_refs", "w").write("5")
image = decode_image(data, ImageLimits())
print(status("VmHWM") - before)
"""


def tiff(samples, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, rowsperstrip=options.pop("rows", len(samples)), **options)
    return buffer.getvalue()


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8).astype(dtype)


TIFFS = {
    "deflate": lambda: tiff(noise(SIDE, SIDE, 3, dtype="u2"), photometric="rgb", compression="zlib"),
    "odd rows": lambda: tiff(noise(SIDE, SIDE - 1, 3, dtype="u2"), photometric="rgb", compression="lzw"),
    "incompressible": lambda: tiff(noise(SIDE, SIDE, 8).view("u8")[:, :, 0], compression="zlib"),
    "two strips": lambda: tiff(noise(SIDE, SIDE, 3, dtype="u2"), photometric="rgb", compression="zlib", rows=SIDE // 2),
    "zstandard": lambda: tiff(np.ones((SIDE, SIDE, 4), "u2"), photometric="rgb", compression="zstd"),
    "JPEG": lambda: tiff(noise(SIDE, SIDE, 3), photometric="ycbcr", compression="jpeg"),
    "uncompressed": lambda: tiff(noise(SIDE, SIDE, 3, dtype="u2"), photometric="rgb"),
    "reversed": lambda: with_reversed_bits(tiff(noise(SIDE, SIDE, 3, dtype="u2"), photometric="rgb")),
    "planes": lambda: tiff(
        np.ones((3, SIDE, SIDE), "u2"), photometric="rgb", planarconfig="separate", compression="zlib", rows=SIDE
    ),
}


def with_reversed_bits(data):
    """The tag of the resolution's unit, which does not matter, becomes that of the order of bits."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags["ResolutionUnit"].offset
    return data[:place] + (266).to_bytes(2, "little") + data[place + 2 : place + 8] + b"\2\0\0\0" + data[place + 12 :]


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_takes_no_more_memory_than_its_header_promises(name, tmp_path):
    small, file = tmp_path / "small", tmp_path / "file"
    small.write_bytes(tiff(noise(8, 8, 3), photometric="rgb", compression="jpeg"))
    file.write_bytes(TIFFS[name]())
    promised = read_header(file.read_bytes(), ImageLimits()).decoding_bytes
    taken = int(subprocess.check_output([sys.executable, "-c", SCRIPT, small, file], timeout=60))
    assert promised / 3 < taken <= promised


@pytest.mark.parametrize(
    ("dtype", "channels", "compression"),
    [("u2", 3, "zlib"), ("u2", 4, "lzw"), ("u2", 3, "zstd"), ("f4", 1, "lzma"), ("u1", 32, "zlib")],
)
def test_a_tiff_of_64_million_pixels_in_one_strip_fits_into_the_default_memory(dtype, channels, compression):
    pixels = 64 * MILLION if channels < 32 else 16 * MILLION
    shape = (8, 8, channels) if channels > 1 else (8, 8)
    planes = "contig" if channels > 1 else None
    data = tiff(np.zeros(shape, dtype), compression=compression, photometric="minisblack", planarconfig=planes)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].samplesperpixel == channels
        tags = [file.pages[0].tags[name] for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    changed = bytearray(data)
    for tag, value in zip(tags, (8000, pixels // 8000, pixels // 8000), strict=True):
        size = {3: 2, 4: 4}[tag.dtype]
        changed[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    header = read_header(bytes(changed) + bytes(48 * MILLION), ImageLimits())
    assert header.width * header.height == pixels
    assert header.decoding_bytes <= EncoderConfig(model="a-folder").max_decoding_bytes * 3 // 4
