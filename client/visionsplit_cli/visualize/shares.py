"""Colours for how much of itself a tile keeps, beside what the whole image keeps."""

import math

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

BACKGROUND: Colour = (18, 20, 24)
MUTED: Colour = (150, 156, 164)
_LESS: Colour = (66, 146, 224)
_SAME: Colour = (214, 217, 221)
_MORE: Colour = (255, 140, 26)
CHANGED = _MORE  # of an answer that is another one than the first panel's
# Where the colours end. GlobalCom2's shares lie between (1 - 1/n) and (2 - 1/n) times the image's for n crops, and most
# of them closer to 1: with a wider scale they would all look alike.
_FULL = 1.5
_BAR = (120, 12)
_FONT_SIZE = 15
_GAP = 10


def share_colour(share: float, whole: float) -> Colour:
    """Grey where a tile keeps the same share as the whole image; blue for two thirds of it or less, orange for 3/2.

    Args:
        share: what the tile keeps of its tokens, in [0, 1].
        whole: what the image keeps of all its tokens, above 0.
    """
    times = share / whole
    step = math.log(times) / math.log(_FULL) if times > 0 else -1.0
    step = min(max(step, -1.0), 1.0)
    end = _MORE if step > 0 else _LESS
    red, green, blue = (round(same + abs(step) * (far - same)) for same, far in zip(_SAME, end, strict=True))
    return red, green, blue


def legend() -> Image.Image:
    """One line that explains the colours."""
    font = ImageFont.load_default(_FONT_SIZE)
    before, after = "Frame: a tile keeps a smaller share than the image", "a larger share"
    left = round(font.getlength(before)) + _GAP
    right = left + _BAR[0] + _GAP
    drawing = Image.new("RGB", (right + round(font.getlength(after)) + 1, 2 * _FONT_SIZE), BACKGROUND)
    draw = ImageDraw.Draw(drawing)
    middle = drawing.height // 2
    draw.text((0, middle), before, fill=MUTED, font=font, anchor="lm")
    draw.text((right, middle), after, fill=MUTED, font=font, anchor="lm")
    for x in range(_BAR[0]):
        step = 2 * x / (_BAR[0] - 1) - 1
        top = middle - _BAR[1] // 2
        draw.line((left + x, top, left + x, top + _BAR[1]), fill=share_colour(_FULL**step, 1.0))
    return drawing
