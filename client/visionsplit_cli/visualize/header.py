"""The head of the drawing: the image as it is, what the panels mean, and the question that was asked."""

from dataclasses import dataclass

from PIL import Image

from visionsplit_cli.visualize.shares import BACKGROUND, CHANGED, MUTED, Colour, legend
from visionsplit_cli.visualize.text import TEXT, line_height, text_block, wrapped

_MIN_TEXT_WIDTH = 420
_WIDEST = 2.2  # times as wide as high: a strip is shown smaller than other images


@dataclass(frozen=True)
class Header:
    """What the drawing says before the panels."""

    image: str  # its name
    question: str | None = None
    answers_differ: bool = False  # whether any panel's answer is in the colour of a changed one


def draw_header(image: Image.Image, header: Header, *, height: int, gap: int, width: int) -> Image.Image:
    """The image at most `height` high, and the text beside it.

    Args:
        image: the whole image.
        header: what to say.
        height: pixels of the image, at most.
        gap: pixels between the image and the text.
        width: pixels that the panels take; the head is only wider where its text needs that.
    """
    scale = min(height / image.height, _WIDEST * height / image.width)
    original = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    title, text = 22, 15
    left = original.width + gap
    room = max(width - left, _MIN_TEXT_WIDTH, legend().width)
    blocks = [
        _block(f"{header.image}: {image.width} x {image.height} pixels", title, TEXT, room),
        _block("Bright: vision tokens that are kept. Dark: tokens that are dropped.", text, MUTED, room),
        legend(),
    ]
    if header.question is not None:
        blocks.append(_block(f"Question: {header.question}", title, TEXT, room))
    if header.answers_differ:
        blocks.append(_block("Answers in this colour differ from the first panel's.", text, CHANGED, room))
    space = line_height(text) // 3
    below = sum(block.height + space for block in blocks)
    drawing = Image.new("RGB", (left + room, max(original.height, below)), BACKGROUND)
    drawing.paste(original, (0, 0))
    top = 0
    for block in blocks:
        drawing.paste(block, (left, top))
        top += block.height + space
    return drawing


def _block(text: str, size: int, colour: Colour, width: int) -> Image.Image:
    return text_block(wrapped(text, size, width), size, colour, width)
