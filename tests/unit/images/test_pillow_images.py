"""Pillow images as callers hold them: opened, loaded, copied, drawn on, or made from arrays."""

import io
import pickle

import numpy as np
import pytest
import tifffile
from PIL import BmpImagePlugin, Image, ImageDraw
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageLimits, decode_image, file_of, pillow_to_rgb

from tests.unit.images.file_matrix import SIZE as BMP_SIZE
from tests.unit.images.file_matrix import bmp, saved
from tests.unit.images.png_matrix import COLOUR, png
from tests.unit.images.tiff_matrix import tiff
from tests.unit.images.variants import over_white, samples

SIZE = 11, 13
RGB = samples(*SIZE, 3, 8)
GREY = samples(*SIZE, 1, 16)[:, :, 0]


def shown(image):
    return np.asarray(pillow_to_rgb(image)).astype(float)


def grey16(values):
    return np.repeat(values[:, :, None] * (255 / 65535), 3, axis=2)


def of_bytes(mode, array):
    return Image.frombytes(mode, SIZE[::-1], array.tobytes())


RGBA = samples(*SIZE, 4, 8)
ON_WHITE = over_white(RGBA[:, :, :3], RGBA[:, :, 3:] / 255)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (of_bytes("I;16", GREY.astype("<u2")), grey16(GREY)),
        (of_bytes("I;16B", GREY.astype(">u2")), grey16(GREY)),
        (of_bytes("I;16L", GREY.astype("<u2")), grey16(GREY)),
        (Image.fromarray(GREY.astype(np.int32)), grey16(GREY)),
        (Image.fromarray((GREY >> 8).astype(np.int32)), np.repeat((GREY >> 8)[:, :, None], 3, axis=2)),
        (Image.fromarray((GREY / 65535).astype(np.float32)), grey16(GREY)),
        (Image.fromarray(RGBA), ON_WHITE),
        (Image.fromarray(RGBA).convert("RGBa"), ON_WHITE),
        (of_bytes("RGBX", RGBA), RGBA[:, :, :3]),
        (of_bytes("LA", RGBA[:, :, 2:]), np.repeat(over_white(RGBA[:, :, 2:3], RGBA[:, :, 3:] / 255), 3, axis=2)),
        (
            of_bytes("LA", RGBA[:, :, 2:]).convert("La"),
            np.repeat(over_white(RGBA[:, :, 2:3], RGBA[:, :, 3:] / 255), 3, axis=2),
        ),
        (Image.fromarray(RGB).quantize(), np.asarray(Image.fromarray(RGB).quantize().convert("RGB"))),
        (Image.fromarray(RGB).convert("1"), np.asarray(Image.fromarray(RGB).convert("1").convert("RGB"))),
        (Image.fromarray(RGB).convert("YCbCr"), RGB),
        (Image.fromarray(RGB).convert("HSV"), RGB),
        (of_bytes("CMYK", RGBA), (255 - RGBA[:, :, :3]) * ((255 - RGBA[:, :, 3:]) / 255)),
        (Image.new("RGBA", SIZE[::-1], (9, 9, 9, 0)), np.full((*SIZE, 3), 255)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_is_read_by_its_meaning(image, expected):
    tolerance = {"YCbCr": 3, "HSV": 9, "RGBa": 2, "La": 2}.get(image.mode, 1)
    assert np.abs(shown(image) - expected).max() <= tolerance
    sent = decode_image(file_of(image), ImageLimits())
    assert np.array_equal(np.asarray(sent), shown(image))


def test_lab_is_converted():
    lab = Image.fromarray(RGB // 2 + 64).convert("LAB")
    assert np.abs(shown(lab) - (RGB // 2 + 64)).mean() < 1.5


def in_memory(data):
    """An image that Pillow has loaded from bytes, so that no file can be read again."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (tiff(np.moveaxis(samples(*SIZE, 3, 16), 2, 0), photometric="rgb", planarconfig="separate")[0], "in planes"),
        (tiff(GREY.astype(np.uint32) << 16, photometric="minisblack")[0], "more than 31 bits"),
        (tiff(RGB[:, :, 0].view(np.int8), photometric="minisblack")[0], "signed 8-bit"),
        (tiff(GREY.astype(np.int16), photometric="minisblack", byteorder=">", compression="lzw")[0], "big-endian"),
        (tiff(RGB, photometric="ycbcr")[0], "YCbCr"),
        (png(samples(*SIZE, 3, 16), COLOUR, 16, transparency=b"\1\0" * 3), "transparent colour"),
    ],
    ids=["planes", "32 bits", "signed", "big-endian", "ycbcr", "png"],
)
def test_what_pillow_has_lost_is_refused(data, named):
    with pytest.raises(InvalidImageError, match="Pillow has lost the meaning") as caught:
        pillow_to_rgb(in_memory(data))
    assert named in str(caught.value)


def test_a_drawing_on_a_misread_image_is_not_replaced_by_its_file(tmp_path):
    path = tmp_path / "planes.tif"
    tifffile.imwrite(path, np.moveaxis(samples(*SIZE, 3, 16), 2, 0), photometric="rgb", planarconfig="separate")
    with Image.open(path) as image:
        image.load()
        assert np.abs(shown(image) - samples(*SIZE, 3, 16) / 257).max() <= 1
        ImageDraw.Draw(image).rectangle((0, 0, 5, 5), fill="red")
        with pytest.raises(InvalidImageError, match="in planes"):
            pillow_to_rgb(image)


def test_a_drawing_on_a_sound_image_is_sent(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    with Image.open(path) as image:
        ImageDraw.Draw(image).rectangle((0, 0, 5, 5), fill="red")
        assert decode_image(file_of(image), ImageLimits()).getpixel((3, 3)) == (255, 0, 0)


def test_tags_of_a_loaded_tiff_decide():
    inverted = in_memory(tiff(65535 - GREY, photometric="miniswhite")[0])
    assert np.abs(shown(inverted) - grey16(GREY)).max() <= 1
    narrow = in_memory(tiff(GREY >> 4, photometric="minisblack", bitspersample=12)[0])
    assert np.abs(shown(narrow) - grey16(GREY)).max() <= 1


def test_a_copy_keeps_what_its_mode_says():
    image = in_memory(tiff(GREY, photometric="minisblack", byteorder=">")[0])
    for copied in (image.copy(), pickle.loads(pickle.dumps(image))):
        assert np.abs(shown(copied) - grey16(GREY)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_a_pickled_image_is_what_it_was(kind):
    image = in_memory(saved(Image.fromarray(RGB), kind))
    assert np.array_equal(shown(pickle.loads(pickle.dumps(image))), shown(image))


def test_the_frame_that_the_caller_chose_is_taken():
    pages = [Image.fromarray(GREY), Image.fromarray(GREY.T.copy())]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        assert np.abs(shown(image) - grey16(GREY.T)).max() <= 1
        assert decode_image(file_of(image), ImageLimits()).size == SIZE
    frames = [Image.new("P", (8, 8), colour) for colour in (0, 1)]
    for frame in frames:
        frame.putpalette([255, 0, 0, 0, 0, 255])
    with Image.open(io.BytesIO(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))) as image:
        image.seek(1)
        assert pillow_to_rgb(image).getpixel((0, 0)) == (0, 0, 255)


def without_alpha(colours):
    """A BMP with an alpha channel that its writer has left at 0."""
    stored = np.concatenate([colours[:, :, ::-1], np.zeros((*BMP_SIZE, 1), np.uint8)], axis=2)
    return bmp(
        stored.reshape(BMP_SIZE[0], -1), 32, header=108, compression=3, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    )


def test_a_bitmap_of_the_clipboard_is_read_like_a_bmp():
    colours = samples(*BMP_SIZE, 3, 8)
    file_header = 14
    clipped = BmpImagePlugin.DibImageFile(io.BytesIO(without_alpha(colours)[file_header:]))
    assert np.array_equal(shown(clipped), colours)
    assert np.array_equal(np.asarray(decode_image(file_of(clipped), ImageLimits())), colours)


def test_a_bmp_that_resizing_has_made_black_is_refused(tmp_path):
    image = in_memory(without_alpha(samples(*BMP_SIZE, 3, 8)))
    image.thumbnail((10, 10))
    with pytest.raises(InvalidImageError, match=r'call convert\("RGB"\) first'):
        pillow_to_rgb(image)
    path = tmp_path / "black.bmp"
    path.write_bytes(without_alpha(np.zeros((*BMP_SIZE, 3), np.uint8)))
    with Image.open(path) as black:
        black.load()
        assert not shown(black).any()


def test_a_draft_stays_small():
    with Image.open(io.BytesIO(saved(Image.new("RGB", (512, 512)), "JPEG"))) as image:
        image.draft("RGB", (64, 64))
        assert decode_image(file_of(image), ImageLimits()).size == image.size == (64, 64)


def test_a_format_that_is_no_accepted_file_is_still_a_pillow_image():
    with Image.open(io.BytesIO(saved(Image.fromarray(RGB), "TGA"))) as image:
        assert np.array_equal(shown(image), RGB)
        assert np.array_equal(np.asarray(decode_image(file_of(image), ImageLimits())), RGB)


def test_an_image_that_cannot_be_loaded_is_refused(tmp_path):
    path = tmp_path / "image.tga"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with Image.open(path) as image, pytest.raises(InvalidImageError, match="cannot be loaded"):
        pillow_to_rgb(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "BMP"])
def test_an_image_whose_file_was_closed_too_early_is_refused(kind):
    with Image.open(io.BytesIO(saved(Image.fromarray(RGB), kind))) as left:
        pass
    verified = Image.open(io.BytesIO(saved(Image.fromarray(RGB), kind)))
    verified.verify()
    for image in (left, verified):
        with pytest.raises(InvalidImageError, match=r"closed before its pixels were read.* call load\(\)"):
            file_of(image)


@pytest.mark.parametrize(("mode", "size"), [("RGB", (0, 0)), ("L", (0, 5)), ("F", (5, 0)), ("RGBA", (0, 5))])
def test_an_image_without_pixels_is_refused(mode, size):
    with pytest.raises(InvalidImageError, match=f"the image has {size[0]} x {size[1]} pixels"):
        file_of(Image.new(mode, size))


def test_metadata_of_a_pillow_image_is_neither_sent_nor_checked():
    image = Image.fromarray(RGB)
    image.info |= {"icc_profile": "text", "exif": 5, "dpi": "text"}
    assert np.array_equal(np.asarray(decode_image(file_of(image), ImageLimits())), RGB)
    assert set(image.info) == {"icc_profile", "exif", "dpi"}


@pytest.mark.parametrize(("mode", "key"), [("RGB", "text"), ("RGB", (1, 2)), ("P", "text"), ("P", 999), ("L", "text")])
def test_an_invalid_transparent_colour_is_named(mode, key):
    image = Image.new(mode, (4, 4))
    image.info["transparency"] = key
    with pytest.raises(InvalidImageError, match="transparency"):
        file_of(image)
