"""Files that are not supported are refused with an error that names their kind."""

import base64
import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageLimits, decode_image, read_header

from tests.unit.images.file_matrix import DATA, saved
from tests.unit.images.png_matrix import GREY, chunked, png
from tests.unit.images.tiff_matrix import tiff, written
from tests.unit.images.variants import samples

SIZE = 8, 8
PLAIN = {256: (4, 8), 257: (4, 8), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1), 278: (4, 8)}
PIXELS = samples(*SIZE, 1, 8).tobytes()


def saved_array():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4, 3), np.uint8))
    return buffer.getvalue()


def refusal(data, limits=None):
    with pytest.raises(InvalidImageError) as caught:
        decode_image(data, limits or ImageLimits())
    return str(caught.value)


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({262: (3, 4)}, "a transparency mask"),
        ({262: (3, 9)}, "ICC L*a*b* colours"),
        ({262: (3, 32803)}, "a camera's raw samples"),
        ({262: (3, 77)}, "photometric 77"),
        ({259: (3, 6)}, "old-style JPEG"),
        ({259: (3, 50001)}, "WebP"),
        ({259: (3, 50002)}, "JPEG XL"),
        ({259: (3, 77)}, "compression 77"),
        ({339: (3, 6)}, "complex floating-point samples"),
        ({258: (3, (5, 6, 5)), 262: (3, 2), 277: (3, 3)}, "different widths (5, 6, 5 bits)"),
        ({258: (3, 24)}, "24-bit unsigned integer samples"),
        ({258: (3, 24), 339: (3, 3)}, "24-bit floating-point samples"),
        ({258: (3, 32), 262: (3, 3)}, "32-bit unsigned integer samples as indices of a palette"),
        ({258: (3, 16), 259: (3, 7)}, "JPEG compression of anything but 8-bit"),
        ({259: (3, 7), 262: (3, 8), 277: (3, 3)}, "JPEG compression of anything but 8-bit"),
        ({320: (3, (0,) * (2**18 + 1))}, "more than 262144 strips"),
        ({258: (3, 8), 259: (3, 4)}, "CCITT compression of anything but one bit"),
        ({258: (3, 4), 259: (3, 5), 317: (3, 2)}, "the predictor 2 on 4-bit"),
        ({262: (3, 5), 277: (3, 4), 332: (3, 2)}, "inks other than CMYK"),
        ({262: (3, 2), 277: (3, 2)}, "2 samples in a pixel of RGB"),
        ({50706: (1, (1, 4, 0, 0))}, "a camera's raw file"),
        ({254: (4, 1), 330: (4, 8)}, "a camera's raw file"),
        ({322: (4, 16), 323: (4, 2**24), 324: (4, 8), 325: (4, 64)}, "tiles far larger than the image"),
        ({262: (3, 3)}, "its palette has 0 of 256 colours"),
        ({278: (4, 2)}, "it has 1 of 4 strips or tiles"),
        ({257: (4, 9), 278: (4, 9)}, "fewer bytes than its pixels take"),
    ],
)
def test_a_tiff_says_what_of_it_is_not_supported(tags, named):
    text = refusal(written([PIXELS], "<", {**PLAIN, **tags}))
    assert named in text
    assert "TIFF" in text


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\n<!DOCTYPE html><html></html>", "an HTML page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file"),
        (b"\0\0\1\0\1\0", "a Windows icon"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file"),
        (b"P7\nWIDTH 1\n", "a PAM file"),
        (b"PF\n1 1\n-1.0\n", "a PFM file in colour"),
        (saved(Image.new("RGB", (8, 8)), "TGA"), "a TGA file"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "an MP4 video"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "an MP4 video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a QuickTime video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw file (CR3)"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI video"),
        (b"\x1a\x45\xdf\xa3\x01", "a Matroska or WebM video"),
        (b"FUJIFILMCCD-RAW 0201", "a camera raw file (RAF)"),
        (b"IIRO\x08\0\0\0", "a camera raw file (ORF)"),
        (b"IIU\0\x18\0\0\0", "a camera raw file (RW2)"),
        (bytes(128) + b"DICM\2\0\0\0", "a DICOM file"),
        (saved_array(), "a NumPy array"),
        (base64.b64encode(saved(Image.new("RGB", (8, 8)), "JPEG")), "the base64 text of an image"),
        (base64.encodebytes(saved(Image.new("RGB", (64, 64)), "PNG")), "the base64 text of an image"),
        (b"data:image/png;base64,iVBORw0KGgo", "a data: URL"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (chunked([(b"CgBI", b"\0\0\0\0"), (b"IHDR", b"")]), "CgBI"),
        (b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(100), "BMP"),
    ],
)
def test_other_files_are_named(data, named):
    assert named in refusal(data)


def test_a_jpeg_of_12_bits_is_named():
    data = saved(Image.new("RGB", (8, 8)), "JPEG")
    start = data.index(b"\xff\xc0") + 4
    assert "12-bit" in refusal(data[:start] + b"\x0c" + data[start + 1 :])


@pytest.mark.parametrize("kind", ["avif", "jp2", "tiff", "heic"])
def test_the_pixel_limit_holds_before_decoding(kind):
    array = samples(64, 80, 3, 8)
    data = {
        "avif": lambda: imagecodecs.avif_encode(array, level=80, speed=9),
        "jp2": lambda: imagecodecs.jpeg2k_encode(array, level=0),
        "tiff": lambda: tiff(array, photometric="rgb", compression="lzw")[0],
        "heic": lambda: (DATA / "waves.heic").read_bytes(),
    }[kind]()
    limits = ImageLimits(max_pixels=64 * 80 - 1)
    for read in (decode_image, read_header):
        with pytest.raises(InvalidImageError, match="80 x 64 pixels, more than the 5119"):
            read(data, limits)
    header = read_header(data, ImageLimits(max_pixels=64 * 80))
    assert (header.width, header.height) == (80, 64)


def test_a_small_tiff_that_announces_much_takes_no_memory():
    tags = {**PLAIN, 256: (4, 60_000), 257: (4, 60_000), 278: (4, 60_000)}
    assert "60000 x 60000" in refusal(written([PIXELS], "<", tags))


def test_texts_of_a_png_are_never_unpacked():
    bomb = imagecodecs.zlib_encode(bytes(50_000_000))
    data = png(samples(*SIZE, 1, 8), GREY, 8, extra=[(b"zTXt", b"x\0\0" + bomb)] * 20)
    assert decode_image(data, ImageLimits()).size == (8, 8)


def test_signed_alpha_is_refused():
    array = np.zeros((*SIZE, 2), np.int16)
    data, _ = tiff(array, photometric="minisblack", extrasamples=["unassalpha"])
    assert "alpha" in refusal(data)
