"""Images of the kinds of items: emoji from the atlas, and shapes as masks in any colour."""

import functools
import math
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from training.scenes.vocabulary import EMOJI

ASSETS = Path(__file__).parent.parent / "assets"
EMOJI_ATLAS = ASSETS / "emoji.png"
FONTS = (ASSETS / "DejaVuSans-Bold.ttf", ASSETS / "DejaVuSansCondensed-Bold.ttf")
SPRITE_SIDE = 96  # pixels
ATLAS_COLUMNS = 8
_FINE = 4 * SPRITE_SIDE  # shapes are drawn at this size and then reduced, which smooths their edges


@functools.cache
def emoji(kind: str) -> Image.Image:
    """RGBA, SPRITE_SIDE square."""
    row, column = divmod(list(EMOJI).index(kind), ATLAS_COLUMNS)
    left, top = column * SPRITE_SIDE, row * SPRITE_SIDE
    return _atlas().crop((left, top, left + SPRITE_SIDE, top + SPRITE_SIDE))


@functools.cache
def shape(kind: str) -> Image.Image:
    """A mask, mode L, SPRITE_SIDE square."""
    mask = Image.new("L", (_FINE, _FINE))
    draw = ImageDraw.Draw(mask)
    if kind in _POLYGONS:
        draw.polygon([(x * _FINE, y * _FINE) for x, y in _POLYGONS[kind]], fill=255)
    else:
        _draw_round(kind, mask, draw)
    return mask.resize((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.LANCZOS)


@functools.cache
def font(index: int, quarter_pixels: int) -> ImageFont.FreeTypeFont:
    """The font at a size given in quarters of a pixel."""
    return ImageFont.truetype(str(FONTS[index]), quarter_pixels / 4)


@functools.cache
def _atlas() -> Image.Image:
    return Image.open(EMOJI_ATLAS).convert("RGBA")


def _star() -> list[tuple[float, float]]:
    points = []
    for corner in range(10):
        radius = 0.52 if corner % 2 == 0 else 0.21
        angle = math.pi * corner / 5
        points.append((0.5 + radius * math.sin(angle), 0.53 - radius * math.cos(angle)))
    return points


_POLYGONS = {
    "arrow": [(0, 0.35), (0.5, 0.35), (0.5, 0.08), (1, 0.5), (0.5, 0.92), (0.5, 0.65), (0, 0.65)],
    "cross": [
        (0.34, 0), (0.66, 0), (0.66, 0.34), (1, 0.34), (1, 0.66), (0.66, 0.66),
        (0.66, 1), (0.34, 1), (0.34, 0.66), (0, 0.66), (0, 0.34), (0.34, 0.34),
    ],
    "diamond": [(0.5, 0), (0.9, 0.5), (0.5, 1), (0.1, 0.5)],
    "square": [(0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)],
    "star": _star(),
    "triangle": [(0.5, 0.03), (1, 0.95), (0, 0.95)],
}  # fmt: skip


def _draw_round(kind: str, mask: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    def ellipse(left: float, top: float, right: float, bottom: float, fill: int = 255) -> None:
        draw.ellipse([_FINE * side for side in (left, top, right, bottom)], fill=fill)

    if kind == "circle":
        ellipse(0, 0, 0.999, 0.999)
    elif kind == "ring":
        ellipse(0, 0, 0.999, 0.999)
        ellipse(0.27, 0.27, 0.73, 0.73, fill=0)
    elif kind == "moon":
        ellipse(0.02, 0, 0.999, 0.999)
        bite = Image.new("L", mask.size)
        ImageDraw.Draw(bite).ellipse([0.38 * _FINE, -0.06 * _FINE, 1.25 * _FINE, 0.81 * _FINE], fill=255)
        mask.paste(ImageChops.subtract(mask, bite))
    elif kind == "heart":
        ellipse(0, 0.06, 0.53, 0.59)
        ellipse(0.47, 0.06, 0.999, 0.59)
        draw.polygon([(x * _FINE, y * _FINE) for x, y in ((0.045, 0.47), (0.5, 0.36), (0.955, 0.47), (0.5, 0.98))], 255)
    else:
        raise ValueError(f"there is no shape {kind!r}")
