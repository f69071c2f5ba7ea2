"""`visionsplit visualize` against scripted services."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import DataType
from visionsplit.wire.vision_tokens import VisionTokens
from visionsplit_client import Limits, Timeouts
from visionsplit_client._images import read_image
from visionsplit_client.cli import main
from visionsplit_client.cli._drawing import Panel, draw_panels, kept_masks
from visionsplit_client.cli._picture import as_encoded

from tests.unit.client.fakes import fake_features, kept_positions


@pytest.fixture
def sheet(where, tmp_path):
    """Panels of a plain white picture, so that brightness shows what was kept."""
    source, output = tmp_path / "white.png", tmp_path / "panels.png"
    Image.new("RGB", (500, 300), "white").save(source)
    assert main(["visualize", str(source), "-o", str(output), "--ratios", "1,0.25", *where]) == 0
    return np.asarray(Image.open(output).convert("L"))


def test_bright_area_follows_the_ratio(sheet):
    left, right = np.split(sheet, 2, axis=1)
    bright = [(half == 255).sum() for half in (left, right)]
    assert bright[0] > 200_000
    assert bright[1] / bright[0] == pytest.approx(0.25, abs=0.04)


def test_kept_cells_lie_where_their_positions_say(sheet):
    # The scripted encoder keeps the first cells of each tile: the upper rows of each crop are bright.
    panel = np.split(sheet, 2, axis=1)[1]
    rows, columns = np.where(panel == 255)
    crops = columns > 24 + 240 + 10
    height = rows[crops].max() - rows[crops].min()
    upper = rows[crops] - rows[crops].min() < height * 0.3
    lower = rows[crops] - rows[crops].min() > height * 0.7
    assert upper.any()
    assert lower.any()
    middle = ~upper & ~lower
    assert middle.mean() < 0.1


def test_masks_undo_the_tiling():
    grid = TileGrid.for_image(300, 500, rows=2, columns=2, side=8)
    budgets, positions = kept_positions(grid, 1.0)
    tokens = VisionTokens(grid, tuple(budgets), fake_features(len(positions), DataType.FLOAT32), positions)
    thumbnail, canvas = kept_masks(tokens)
    assert thumbnail.all()
    assert canvas.shape == (grid.valid.height, grid.valid.width)
    assert canvas.all()
    chosen = [(0, 2, 3), (4, 1, 5)]
    only = VisionTokens(grid, (1, 0, 0, 0, 1), fake_features(2, DataType.FLOAT32), np.array(chosen, np.int32))
    thumbnail, canvas = kept_masks(only)
    assert np.argwhere(thumbnail).tolist() == [[2, 3]]
    assert np.argwhere(canvas).tolist() == [[8 + 1 - grid.valid.top, 8 + 5]]


def drawn(width, height, grid):
    budgets, positions = kept_positions(grid, 1.0)
    tokens = VisionTokens(grid, tuple(budgets), fake_features(len(positions), DataType.FLOAT32), positions)
    return np.asarray(draw_panels(Image.new("RGB", (width, height), "white"), [Panel("", tokens)]).convert("L"))


@pytest.mark.parametrize(("width", "height", "rows", "columns"), [(3000, 45, 1, 3), (45, 3000, 3, 1), (70, 3000, 2, 2)])
def test_thin_strips_are_drawn_thick_enough_to_see(width, height, rows, columns):
    bright = drawn(width, height, TileGrid.for_image(height, width, rows=rows, columns=columns, side=24)) == 255
    beside_thumbnail = bright[:, 24 + 240 + 20 :]
    assert beside_thumbnail.any(axis=0).sum() > 15
    assert beside_thumbnail.any(axis=1).sum() > 15


def test_crops_without_a_token_are_said_and_not_drawn():
    grid = TileGrid.for_image(9, 3000, rows=1, columns=3, side=8)
    assert grid.valid.area == 0
    assert not (drawn(3000, 9, grid)[:, 24 + 240 + 20 :] == 255).any()


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_wide_grey_is_scaled_not_clipped():
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert np.asarray(as_encoded(png(Image.fromarray(values))))[..., 0].tolist() == [[0, 100, 255]]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 0.2, 0.8], [0, 51, 204]),
        ([0.0, 20.0, 200.0], [0, 20, 200]),
        ([0.0, 100.0, 1000.0], [0, 26, 255]),
        ([-5.0, -5.0, -5.0], [128, 128, 128]),
    ],
)
def test_floating_grey_is_read_as_the_encoder_reads_it(values, shown):
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(buffer, "TIFF")
    assert np.asarray(as_encoded(buffer.getvalue()))[..., 1].tolist() == [shown]


def test_the_transparent_value_of_wide_grey_is_white():
    values = np.array([[257, 257 * 2]], np.uint16)
    assert np.asarray(as_encoded(png(Image.fromarray(values), transparency=257)))[..., 0].tolist() == [[255, 2]]


def test_transparency_lies_over_white():
    assert as_encoded(png(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_orientation_is_applied_beside_a_tag_that_cannot_be_written_again():
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2)
    exif += struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # orientation: turn by 90 degrees
    exif += struct.pack("<HHI4s", 0x011A, 2, 4, b"what") + bytes(4)  # a resolution, which should be a number
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    with pytest.raises(TypeError):
        ImageOps.exif_transpose(Image.open(buffer))
    assert as_encoded(buffer.getvalue()).size == (20, 40)
    assert Image.open(io.BytesIO(read_image(Image.open(buffer), limits=Limits(), timeouts=Timeouts()))).size == (20, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    data = png(Image.fromarray(pixels), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(as_encoded(data)), np.asarray(expected))


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "panels.png", "--ratios", "foo"],
        ["-o", "panels.png", "--ratios", "1,x"],
        ["-o", "panels.xyz"],
        ["-o", "panels"],
        ["-o", "no-such-folder/panels.png"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_seen_before_anything_is_encoded(options, where, services, picture, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["visualize", str(picture), *options, *where])
    assert ended.value.code == 2
    assert options[-1] in capsys.readouterr().err
    assert not services.encoder.script.requests


def test_without_compression_there_is_one_panel(where, services, picture, tmp_path):
    assert main(["visualize", str(picture), "-o", str(tmp_path / "a.png"), "--method", "none", *where]) == 0
    (request,) = services.encoder.script.requests
    assert (request.compression.method, request.compression.retention_ratio) == ("none", 1.0)
