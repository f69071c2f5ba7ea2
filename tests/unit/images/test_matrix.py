"""Hundreds of generated files: each shows what other decoders show, by its path and as a Pillow image."""

from functools import cache

import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import InvalidImageError
from visionsplit.images import ImageLimits, decode_image, file_of, pillow_to_rgb, read_header

from tests.unit.images import file_matrix, png_matrix, tiff_matrix
from tests.unit.images.variants import samples

LOADED_TOLERANCE = 3  # of 16-bit samples Pillow keeps the upper bytes, also of those of the alpha

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore:.*:DeprecationWarning")
every_matrix = pytest.mark.parametrize(
    "variants", [tiff_matrix.variants, png_matrix.variants, file_matrix.variants], ids=["TIFF", "PNG", "others"]
)


@cache
def listed(variants):
    return list(variants())


def differs(image, shown, tolerance):
    """In which way an image is not what a file shows; None if it is."""
    pixels = np.asarray(image).astype(float)
    if pixels.shape != shown.shape:
        return f"{pixels.shape} is not {shown.shape}"
    most = np.abs(pixels - shown).max()
    return f"differs by up to {most:.2f}" if most > tolerance else None


def test_there_are_enough_of_them():
    assert sum(len(listed(module.variants)) for module in (tiff_matrix, png_matrix, file_matrix)) > 900


@every_matrix
def test_a_file_shows_what_others_show(variants):
    wrong = {}
    for variant in listed(variants):
        try:
            difference = differs(decode_image(variant.data, ImageLimits()), variant.shown, variant.tolerance)
            wrong[variant.name] = "was read" if variant.refused else difference
        except InvalidImageError as error:
            refused = variant.refused and variant.refused in str(error)
            wrong[variant.name] = None if refused else f"is refused: {error}"
    assert not {name: why for name, why in wrong.items() if why}


@every_matrix
def test_the_header_tells_the_size(variants):
    for variant in listed(variants):
        header = read_header(variant.data, ImageLimits())
        assert {header.width, header.height} == set(variant.shown.shape[:2]), variant.name


@every_matrix
def test_a_pillow_image_shows_what_its_path_shows(variants, tmp_path):
    wrong = {}
    for variant in listed(variants):
        path = tmp_path / "image"
        path.write_bytes(variant.data)
        if variant.refused or not (opened := _opened(path)):
            continue
        with opened as image:
            if image.format not in ("WEBP",):  # has read the file already
                assert file_of(image) == variant.data, variant.name
            try:
                image.load()
            except (OSError, ValueError):  # what Pillow does not read, it refuses its callers as well
                continue
            wrong[variant.name] = differs(pillow_to_rgb(image), variant.shown, max(variant.tolerance, LOADED_TOLERANCE))
    assert len(wrong) > 100
    assert not {name: why for name, why in wrong.items() if why}


def _opened(path):
    try:
        return Image.open(path)
    except (OSError, ValueError):
        return None


def test_libpng_reads_the_same_samples():
    """What the PNG files hold is known from their making; libpng agrees."""
    for colour_type, depths in png_matrix.DEPTHS.items():
        for depth in depths:
            if depth < 8 or colour_type == png_matrix.PALETTE:  # libpng makes 8 bits and colours of these
                continue
            array = samples(*png_matrix.SIZE, png_matrix.CHANNELS[colour_type], depth)
            assert np.array_equal(png_matrix.libpng(png_matrix.png(array, colour_type, depth)), array)
