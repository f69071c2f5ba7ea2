"""Draws which vision tokens an image keeps: kept cells as they are, pruned ones dimmed, budgets in colours."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from visionsplit.wire.vision_tokens import VisionTokens

from visionsplit_client.cli._drawing_shares import BACKGROUND, MUTED, Colour, legend, share_colour
from visionsplit_client.cli._drawing_tiles import crop_boxes, dimmed, kept_masks

__all__ = ["COMPACT", "LARGE", "Panel", "Sizes", "draw_panels", "kept_masks"]

_TEXT: Colour = (236, 238, 240)
_MIN_CROPS_SIDE = 24  # pixels; a thin strip is drawn thicker than it is
_BORDER, _CROP_GAP = 3, 4


@dataclass(frozen=True)
class Sizes:
    """Measures of a panel in pixels."""

    crops: tuple[int, int]  # width and height of the crops' picture, at most
    thumbnail: int
    margin: int
    gap: int  # between the thumbnail and the crops
    title: int  # of the letters
    text: int


LARGE = Sizes(crops=(640, 480), thumbnail=240, margin=24, gap=20, title=22, text=15)
COMPACT = Sizes(crops=(320, 300), thumbnail=128, margin=14, gap=12, title=19, text=14)


@dataclass(frozen=True)
class Panel:
    """One way to compress the image."""

    title: str
    tokens: VisionTokens
    detail: str = ""  # a second line

    @property
    def share(self) -> float:
        """What the image keeps of all its tokens."""
        return sum(self.tokens.budgets) / sum(self.tokens.grid.valid_counts())


def draw_panels(image: Image.Image, panels: Sequence[Panel], *, columns: int = 2, sizes: Sizes = LARGE) -> Image.Image:
    """All panels in one picture, a few beside each other, and what the colours mean below them."""
    drawn = [_draw_panel(image, panel, sizes) for panel in panels]
    columns = min(columns, len(drawn))
    rows = -(-len(drawn) // columns)
    key = legend()
    width, height = max(panel.width for panel in drawn), max(panel.height for panel in drawn)
    sheet_width = max(columns * width, key.width + 2 * sizes.margin)
    sheet = Image.new("RGB", (sheet_width, rows * height + key.height + sizes.margin), BACKGROUND)
    for index, panel in enumerate(drawn):
        row, column = divmod(index, columns)
        sheet.paste(panel, (column * width, row * height))
    sheet.paste(key, (sizes.margin, rows * height))
    return sheet


def _draw_panel(image: Image.Image, panel: Panel, sizes: Sizes) -> Image.Image:
    grid = panel.tokens.grid
    scale = min(sizes.crops[0] / image.width, sizes.crops[1] / image.height)
    crops_size = (max(round(image.width * scale), _MIN_CROPS_SIDE), max(round(image.height * scale), _MIN_CROPS_SIDE))
    thumbnail_mask, crops_mask = kept_masks(panel.tokens)
    square = dimmed(image.resize((sizes.thumbnail, sizes.thumbnail)), thumbnail_mask)
    thumbnail = _framed(square, panel, 0, sizes)
    if grid.valid.area:
        crops = _draw_crops(dimmed(image.resize(crops_size), crops_mask), panel, sizes)
        label = f"{grid.rows} x {grid.columns} crops"
    else:
        crops = Image.new("RGB", (crops_size[0], 1), BACKGROUND)
        label = f"{grid.rows} x {grid.columns} crops: no crop tokens"
    title_font, font = ImageFont.load_default(sizes.title), ImageFont.load_default(sizes.text)
    left, top = sizes.margin + thumbnail.width + sizes.gap, sizes.margin + _line(sizes.title) + 2 * _line(sizes.text)
    contents = (left + crops.width, *(sizes.margin + round(length) for length in _lengths(panel, sizes)))
    height = top + max(thumbnail.height, crops.height)
    sheet = Image.new("RGB", (max(contents) + sizes.margin, height + sizes.margin), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((sizes.margin, sizes.margin), panel.title, fill=_TEXT, font=title_font)
    draw.text((sizes.margin, sizes.margin + _line(sizes.title)), panel.detail, fill=MUTED, font=font)
    for x, text in ((sizes.margin, "thumbnail"), (left, label)):
        draw.text((x, top - _line(sizes.text)), text, fill=MUTED, font=font)
    sheet.paste(thumbnail, (sizes.margin, top))
    sheet.paste(crops, (left, top))
    return sheet


def _draw_crops(picture: Image.Image, panel: Panel, sizes: Sizes) -> Image.Image:
    """The picture of the valid region cut into its crops, framed and moved apart."""
    boxes = crop_boxes(panel.tokens.grid, picture.size)
    framed = {tile: _framed(picture.crop(box), panel, tile, sizes) for tile, box in boxes.items()}
    columns = sorted({left for left, _, _, _ in boxes.values()})
    rows = sorted({top for _, top, _, _ in boxes.values()})
    beside, above = 2 * _BORDER + _CROP_GAP, _bar(sizes) + _BORDER + _CROP_GAP
    size = (picture.width + len(columns) * beside - _CROP_GAP, picture.height + len(rows) * above - _CROP_GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for tile, (left, top, _, _) in boxes.items():
        sheet.paste(framed[tile], (left + columns.index(left) * beside, top + rows.index(top) * above))
    return sheet


def _framed(picture: Image.Image, panel: Panel, tile: int, sizes: Sizes) -> Image.Image:
    """A tile below a bar that says what it keeps of what it has; bar and border in the colour of its share.

    Where the bar has no room for that, it says the number alone; in a crop that is nearly all padding, nothing.
    """
    kept, limit = panel.tokens.budgets[tile], panel.tokens.grid.valid_in_tile(tile).area
    bar = _bar(sizes)
    colour = share_colour(kept / limit, panel.share)
    frame = Image.new("RGB", (picture.width + 2 * _BORDER, bar + picture.height + _BORDER), colour)
    frame.paste(picture, (_BORDER, bar))
    font = ImageFont.load_default(sizes.text)
    for text in (f"{kept} of {limit}", str(kept)):
        if font.getlength(text) + 2 * _BORDER <= frame.width:
            ImageDraw.Draw(frame).text((frame.width / 2, bar / 2), text, fill=BACKGROUND, font=font, anchor="mm")
            break
    return frame


def _bar(sizes: Sizes) -> int:
    return sizes.text + 6


def _line(size: int) -> int:
    """Height of a line of letters of that size."""
    return round(1.5 * size)


def _lengths(panel: Panel, sizes: Sizes) -> tuple[float, float]:
    """Pixels that the title and the detail take."""
    title, text = ImageFont.load_default(sizes.title), ImageFont.load_default(sizes.text)
    return title.getlength(panel.title), text.getlength(panel.detail)
