"""Text on the drawing: its colours, and lines that fit a width."""

from PIL import Image, ImageDraw, ImageFont

from visionsplit_cli.visualize.shares import BACKGROUND, Colour

TEXT: Colour = (236, 238, 240)
_MAX_LINES = 6  # of one text; a longer one ends in an ellipsis


def line_height(size: int) -> int:
    """Of letters of that size."""
    return round(1.5 * size)


def text_width(text: str, size: int) -> int:
    """Pixels that one line takes."""
    return round(ImageFont.load_default(size).getlength(text)) + 1


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces where there are any."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
            continue
        while text_width(word, size) > width and len(word) > 1:
            fitting = next(
                end for end in range(len(word) - 1, 0, -1) if end == 1 or text_width(word[:end], size) <= width
            )
            lines.append(word[:fitting])
            word = word[fitting:]
        lines.append(word)
    if len(lines) > _MAX_LINES:
        lines = [*lines[: _MAX_LINES - 1], f"{lines[_MAX_LINES - 1]} ..."]
    return lines


def text_block(lines: list[str], size: int, colour: Colour, width: int) -> Image.Image:
    """The lines on the background, one below the other."""
    drawing = Image.new("RGB", (width, max(len(lines) * line_height(size), 1)), BACKGROUND)
    draw, font = ImageDraw.Draw(drawing), ImageFont.load_default(size)
    for number, line in enumerate(lines):
        draw.text((0, number * line_height(size)), line, fill=colour, font=font)
    return drawing
