"""Draws a scene at random: from a seed to its items and their positions.

Lengths are layout pixels: those of the image once the image processor has fitted it to its canvas, so that a sign of 12
pixels is equally hard to read whatever the image's own size.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from training.scenes.scene import Box, Item, Print, Scene
from training.scenes.sprites import FONTS, font
from training.scenes.vocabulary import CODE_CHARACTERS, COLOURS, EMOJI, SHAPES, SIGN, WORDS

GRIDS = ((1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (2, 3), (3, 2))  # rows and columns of crops
FONT_SIZES = (10.0, 14.0)  # legible in a crop, blurred in a thumbnail of half the size
OBJECT_SIZES = (26.0, 54.0)
_MARGIN = 0.03  # of the side: minimum distance of an item's centre from the lines between thirds
_GAP = 4  # pixels between items
_ATTEMPTS = 30


@dataclass(frozen=True)
class Canvas:
    """The grid of crops for which a scene is made."""

    rows: int
    columns: int
    tile: int  # pixels

    @property
    def width(self) -> int:
        return self.columns * self.tile

    @property
    def height(self) -> int:
        return self.rows * self.tile


def draw_scene(seed: str, canvas: Canvas) -> Scene:
    """The scene for a seed; equal seeds give equal scenes."""
    lots = random.Random(seed)
    width, height = _fitted_size(lots, canvas)
    scale = _scale(lots, canvas)
    most = min(7, 3 + canvas.rows * canvas.columns)
    items: list[Item] = []
    while not items:
        items = _place_all(lots, _wanted(lots, lots.randint(1, most)), width, height)
    grown = tuple(_grow(item, scale) for item in items)
    return Scene(round(width * scale), round(height * scale), grown, scale, seed)


def _fitted_size(lots: random.Random, canvas: Canvas) -> tuple[float, float]:
    """Make the image fill its canvas on one side, and on the other fully or partly."""
    share = 1.0 if lots.random() < 0.4 else lots.uniform(0.74, 1.0)
    if lots.random() < 0.5:
        return canvas.width, math.floor(canvas.height * share)
    return math.floor(canvas.width * share), canvas.height


def _scale(lots: random.Random, canvas: Canvas) -> float:
    """Make half of the images as large as their canvas, most others larger, some smaller.

    None is larger than a canvas of two or three crops: it would often be given one with more crops.
    """
    lot = lots.random()
    if lot < 0.5:
        return 1.0
    if lot > 0.92 or canvas.rows * canvas.columns < 4:
        return lots.uniform(0.75, 1.0)
    return lots.uniform(1.0, 2.2)


def _wanted(lots: random.Random, count: int) -> list[Item]:
    """The items to place, at the origin, signs first since they are widest."""
    signs = min(count, lots.choices((0, 1, 2), (0.3, 0.45, 0.25))[0])
    boards = lots.sample(sorted(COLOURS), signs)
    items = [_sign(lots, board) for board in boards]
    copied: Item | None = None
    while len(items) < count:
        if copied is None and count - len(items) >= 2 and lots.random() < 0.35:
            copied = _object(lots)
            for _ in range(lots.randint(2, min(5, count - len(items)))):
                colour = copied.colour if copied.colour is None or lots.random() < 0.6 else lots.choice(sorted(COLOURS))
                items.append(replace(copied, colour=colour))
        else:
            items.append(_object(lots))
    return [_with_print(lots, item) for item in items]


def _object(lots: random.Random) -> Item:
    box = Box(0, 0, 0, 0)
    if lots.random() < 0.55:
        return Item(lots.choice(sorted(EMOJI)), None, box)
    return Item(lots.choice(SHAPES), lots.choice(sorted(COLOURS)), box)


def _sign(lots: random.Random, board: str) -> Item:
    text = lots.choice(WORDS) if lots.random() < 0.3 else code(lots)
    printed = _print(lots, text, board)
    return Item(SIGN, board, printed.box, reads=printed)


def code(lots: random.Random) -> str:
    """Two to four characters that cannot be guessed from a word list."""
    return "".join(lots.choices(CODE_CHARACTERS, k=lots.choices((2, 3, 4), (0.35, 0.4, 0.25))[0]))


def _with_print(lots: random.Random, item: Item) -> Item:
    """An object's size, and for some objects a label or a price tag."""
    if item.is_sign:
        return item
    low, high = OBJECT_SIZES
    side = low * (high / low) ** lots.random()
    item = replace(item, box=Box(0, 0, side, side))
    lot = lots.random()
    if lot < 0.15:
        return replace(item, label=_under(item.box, _print(lots, code(lots), "white")))
    if lot < 0.3:
        return replace(item, price=_under(item.box, _print(lots, _price(lots), "yellow")))
    return item


def _price(lots: random.Random) -> str:
    whole = lots.randint(1, 99)
    return f"${whole}" if lots.random() < 0.6 else f"${whole % 10}.{lots.randint(1, 99):02d}"


def _print(lots: random.Random, text: str, board: str) -> Print:
    size = lots.uniform(*FONT_SIZES)
    chosen = lots.randrange(len(FONTS))
    width = font(chosen, round(4 * size)).getlength(text)
    return Print(text, Box(0, 0, width + 0.8 * size, 1.5 * size), chosen, size, board)


def _under(box: Box, printed: Print) -> Print:
    x, _ = box.centre
    half = printed.box.width / 2
    return replace(printed, box=Box(x - half, box.bottom + 1, x + half, box.bottom + 1 + printed.box.height))


def _place_all(lots: random.Random, items: list[Item], width: float, height: float) -> list[Item]:
    """Place items without overlap, most often crowded around one spot; items that find no room are left out."""
    crowded = lots.random() < 0.6
    focus = lots.uniform(0.1, 0.9) * width, lots.uniform(0.1, 0.9) * height
    spread = lots.uniform(50, 90)
    placed: list[Item] = []
    for item in items:
        for _ in range(_ATTEMPTS):
            if crowded:
                x, y = lots.gauss(focus[0], spread), lots.gauss(focus[1], spread)
            else:
                x, y = lots.uniform(0, width), lots.uniform(0, height)
            moved = _move(item, x - item.box.centre[0], y - item.box.centre[1])
            if _fits(moved, placed, width, height):
                placed.append(moved)
                break
    return placed


def _fits(item: Item, placed: list[Item], width: float, height: float) -> bool:
    footprint = item.footprint
    if footprint.left < 1 or footprint.top < 1 or footprint.right > width - 1 or footprint.bottom > height - 1:
        return False
    x, y = item.box.centre
    if _near_a_line(x / width) or _near_a_line(y / height):
        return False
    return not any(footprint.overlaps(other.footprint, _GAP) for other in placed)


def _near_a_line(share: float) -> bool:
    return min(abs(share - 1 / 3), abs(share - 2 / 3)) < _MARGIN


def _move(item: Item, x: float, y: float) -> Item:
    def box(old: Box) -> Box:
        return Box(old.left + x, old.top + y, old.right + x, old.bottom + y)

    return _change(item, box, 1.0)


def _grow(item: Item, scale: float) -> Item:
    def box(old: Box) -> Box:
        return Box(old.left * scale, old.top * scale, old.right * scale, old.bottom * scale)

    return _change(item, box, scale)


def _change(item: Item, box: Callable[[Box], Box], scale: float) -> Item:
    def printed(old: Print | None) -> Print | None:
        return None if old is None else replace(old, box=box(old.box), size=old.size * scale)

    return replace(
        item, box=box(item.box), reads=printed(item.reads), label=printed(item.label), price=printed(item.price)
    )
