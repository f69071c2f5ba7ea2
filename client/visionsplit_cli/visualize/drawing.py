"""Draws which vision tokens an image keeps: kept cells as they are, dropped ones dimmed, budgets in colours."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from visionsplit.wire.vision_tokens import VisionTokens

from visionsplit_cli.visualize.header import Header, draw_header
from visionsplit_cli.visualize.shares import BACKGROUND, CHANGED, MUTED, share_colour
from visionsplit_cli.visualize.text import TEXT, line_height, text_block, text_width, wrapped
from visionsplit_cli.visualize.tiles import crop_boxes, dimmed, kept_masks

__all__ = ["COMPACT", "LARGE", "Header", "Panel", "Sizes", "draw_panels", "kept_masks"]

_MIN_CROPS_SIDE = 24  # pixels; a thin strip is drawn thicker than it is
_BORDER, _CROP_GAP = 3, 4


@dataclass(frozen=True)
class Sizes:
    """Measures of a panel in pixels."""

    crops: tuple[int, int]  # width and height of the crops' drawing, at most
    thumbnails: tuple[int, int]  # the least and the largest side of the thumbnail, which is as high as the crops
    header: int  # height of the original image
    margin: int
    gap: int  # between the thumbnail and the crops
    title: int  # of the letters
    text: int


LARGE = Sizes(crops=(560, 400), thumbnails=(180, 340), header=180, margin=24, gap=20, title=22, text=15)
COMPACT = Sizes(crops=(300, 260), thumbnails=(128, 200), header=160, margin=14, gap=12, title=19, text=14)


@dataclass(frozen=True)
class Panel:
    """One way to compress the image."""

    title: str
    tokens: VisionTokens
    detail: str = ""  # a second line
    answer: str | None = None  # what the model says
    changed: bool = False  # whether that is another answer than the first panel's

    @property
    def share(self) -> float:
        """What the image keeps of all its tokens."""
        return sum(self.tokens.budgets) / sum(self.tokens.grid.valid_counts())


def draw_panels(
    image: Image.Image, panels: Sequence[Panel], header: Header, *, columns: int = 2, sizes: Sizes = LARGE
) -> Image.Image:
    """All panels in one drawing, a few beside each other, below the original image and the explanations."""
    drawn = [_draw_panel(image, panel, sizes) for panel in panels]
    columns = min(columns, len(drawn))
    rows = [drawn[start : start + columns] for start in range(0, len(drawn), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    width = max(panel.width for panel in drawn)
    head = draw_header(image, header, height=sizes.header, gap=sizes.gap, width=columns * width - 2 * sizes.margin)
    top = head.height + 2 * sizes.margin
    sheet_width = max(columns * width, head.width + 2 * sizes.margin)
    sheet = Image.new("RGB", (sheet_width, top + sum(heights)), BACKGROUND)
    sheet.paste(head, (sizes.margin, sizes.margin))
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * width, top))
        top += height
    return sheet


def _draw_panel(image: Image.Image, panel: Panel, sizes: Sizes) -> Image.Image:
    thumbnail, crops, label = _draw_tiles(image, panel, sizes)
    left = sizes.margin + thumbnail.width + sizes.gap
    lengths = (text_width(panel.title, sizes.title), text_width(panel.detail, sizes.text))
    right = max(left + crops.width, *(sizes.margin + length for length in lengths))
    top = line_height(sizes.title) + 2 * line_height(sizes.text)
    bottom = top + max(thumbnail.height, crops.height)
    answer = _draw_answer(panel, sizes, right - sizes.margin)
    height = bottom if answer is None else bottom + sizes.gap // 2 + answer.height
    sheet = Image.new("RGB", (right + sizes.margin, height + sizes.margin), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(sizes.text)
    draw.text((sizes.margin, 0), panel.title, fill=TEXT, font=ImageFont.load_default(sizes.title))
    draw.text((sizes.margin, line_height(sizes.title)), panel.detail, fill=MUTED, font=font)
    for x, text in ((sizes.margin, "thumbnail"), (left, label)):
        draw.text((x, top - line_height(sizes.text)), text, fill=MUTED, font=font)
    sheet.paste(thumbnail, (sizes.margin, top))
    sheet.paste(crops, (left, top))
    if answer is not None:
        sheet.paste(answer, (sizes.margin, bottom + sizes.gap // 2))
    return sheet


def _draw_tiles(image: Image.Image, panel: Panel, sizes: Sizes) -> tuple[Image.Image, Image.Image, str]:
    """The thumbnail, the crops, and what the crops are."""
    grid = panel.tokens.grid
    scale = min(sizes.crops[0] / image.width, sizes.crops[1] / image.height)
    size = (max(round(image.width * scale), _MIN_CROPS_SIDE), max(round(image.height * scale), _MIN_CROPS_SIDE))
    thumbnail_mask, crops_mask = kept_masks(panel.tokens)
    side = min(max(size[1], sizes.thumbnails[0]), sizes.thumbnails[1])
    thumbnail = _framed(dimmed(image.resize((side, side)), thumbnail_mask), panel, 0, sizes)
    label = f"{grid.rows} x {grid.columns} crops" if grid.num_crops else "no crops"
    if grid.valid.area:
        return thumbnail, _draw_crops(dimmed(image.resize(size), crops_mask), panel, sizes), label
    label = f"{label}: no crop tokens" if grid.num_crops else label
    return thumbnail, Image.new("RGB", (size[0], 1), BACKGROUND), label


def _draw_answer(panel: Panel, sizes: Sizes, width: int) -> Image.Image | None:
    if panel.answer is None:
        return None
    label = text_block(["answer"], sizes.text, MUTED, width)
    lines = wrapped(panel.answer or "(empty)", sizes.title, width)
    answer = text_block(lines, sizes.title, CHANGED if panel.changed else TEXT, width)
    sheet = Image.new("RGB", (width, label.height + answer.height), BACKGROUND)
    sheet.paste(label, (0, 0))
    sheet.paste(answer, (0, label.height))
    return sheet


def _draw_crops(drawing: Image.Image, panel: Panel, sizes: Sizes) -> Image.Image:
    """The drawing of the valid region cut into its crops, framed and moved apart."""
    boxes = crop_boxes(panel.tokens.grid, drawing.size)
    framed = {tile: _framed(drawing.crop(box), panel, tile, sizes) for tile, box in boxes.items()}
    columns = sorted({left for left, _, _, _ in boxes.values()})
    rows = sorted({top for _, top, _, _ in boxes.values()})
    beside, above = 2 * _BORDER + _CROP_GAP, _bar(sizes) + _BORDER + _CROP_GAP
    size = (drawing.width + len(columns) * beside - _CROP_GAP, drawing.height + len(rows) * above - _CROP_GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for tile, (left, top, _, _) in boxes.items():
        sheet.paste(framed[tile], (left + columns.index(left) * beside, top + rows.index(top) * above))
    return sheet


def _framed(drawing: Image.Image, panel: Panel, tile: int, sizes: Sizes) -> Image.Image:
    """A tile below a bar that says what it keeps of what it has; bar and border in the colour of its share.

    Where the bar has no room for that, it says the number alone; in a crop that is nearly all padding, nothing.
    """
    kept, limit = panel.tokens.budgets[tile], panel.tokens.grid.valid_in_tile(tile).area
    bar = _bar(sizes)
    colour = share_colour(kept / limit, panel.share)
    frame = Image.new("RGB", (drawing.width + 2 * _BORDER, bar + drawing.height + _BORDER), colour)
    frame.paste(drawing, (_BORDER, bar))
    font = ImageFont.load_default(sizes.text)
    for text in (f"{kept} of {limit}", str(kept)):
        if font.getlength(text) + 2 * _BORDER <= frame.width:
            ImageDraw.Draw(frame).text((frame.width / 2, bar / 2), text, fill=BACKGROUND, font=font, anchor="mm")
            break
    return frame


def _bar(sizes: Sizes) -> int:
    return sizes.text + 6
