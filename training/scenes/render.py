"""Renders a scene to pixels."""

import random

import numpy as np
from PIL import Image, ImageDraw

from training.scenes.scene import Box, Print, Scene
from training.scenes.sprites import emoji, font, shape
from training.scenes.vocabulary import COLOURS, DARK_COLOURS, EMOJI

_CLUTTER = 14  # maximum number of faint strokes and blots per 100,000 layout pixels


def render(scene: Scene) -> Image.Image:
    """Render the scene as an RGB image."""
    lots = random.Random(f"{scene.seed}/pixels")
    image = _backdrop(lots, scene.width, scene.height)
    draw = ImageDraw.Draw(image)
    _scatter_clutter(lots, draw, scene)
    for item in scene.items:
        if item.kind in EMOJI:
            _paste_emoji(image, item.kind, item.box, mirrored=lots.random() < 0.5)
        elif item.colour is not None and not item.is_sign:
            _paste_shape(image, item.kind, _shade(lots, item.colour), item.box)
        for printed in item.prints:
            _draw_print(lots, draw, printed, scene.scale)
    return image


def character_centres(printed: Print) -> list[tuple[str, float, float]]:
    """Draw each character and return it with its centre, x and y in pixels."""
    written = font(printed.font, round(4 * printed.size))
    left = (printed.box.left + printed.box.right - written.getlength(printed.text)) / 2
    middle = printed.box.centre[1]
    ends = [left + written.getlength(printed.text[:count]) for count in range(len(printed.text) + 1)]
    return [(printed.text[i], (ends[i] + ends[i + 1]) / 2, middle) for i in range(len(printed.text))]


def _backdrop(lots: random.Random, width: int, height: int) -> Image.Image:
    """A gradient between two muted colours."""
    corners = np.array([[lots.randint(110, 220) for _ in range(3)] for _ in range(2)], np.float32)
    angle = lots.uniform(-1, 1)
    across = np.linspace(0, 1, width, dtype=np.float32)[None, :, None] * abs(angle)
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] * (1 - abs(angle))
    share = across + down if angle > 0 else 1 - across - down  # [height, width, 1]
    pixels = corners[0] + share * (corners[1] - corners[0])  # [height, width, 3]
    return Image.fromarray(pixels.astype(np.uint8))


def _scatter_clutter(lots: random.Random, draw: ImageDraw.ImageDraw, scene: Scene) -> None:
    """Draw strokes and blots slightly lighter or darker than the backdrop, which carry no information."""
    area = scene.width * scene.height / scene.scale**2
    for _ in range(lots.randint(0, round(_CLUTTER * area / 100_000))):
        x, y = lots.uniform(0, scene.width), lots.uniform(0, scene.height)
        length = lots.uniform(5, 60) * scene.scale
        tone = tuple(lots.randint(105, 225) for _ in range(3))
        if lots.random() < 0.5:
            end = x + lots.uniform(-length, length), y + lots.uniform(-length, length)
            draw.line((x, y, *end), fill=tone, width=max(1, round(lots.uniform(0.5, 2) * scene.scale)))
        else:
            draw.ellipse((x, y, x + length, y + length * lots.uniform(0.15, 0.5)), fill=tone)


def _shade(lots: random.Random, colour: str) -> tuple[int, ...]:
    return tuple(min(255, max(0, part + lots.randint(-14, 14))) for part in COLOURS[colour])


def _paste_emoji(image: Image.Image, kind: str, box: Box, *, mirrored: bool) -> None:
    side = max(1, round(box.width))
    sprite = emoji(kind).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)
    if mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image.paste(sprite, (round(box.left), round(box.top)), sprite)


def _paste_shape(image: Image.Image, kind: str, colour: tuple[int, ...], box: Box) -> None:
    side = max(1, round(box.width))
    mask = shape(kind).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2)
    image.paste(colour, (round(box.left), round(box.top), round(box.left) + side, round(box.top) + side), mask)


def _draw_print(lots: random.Random, draw: ImageDraw.ImageDraw, printed: Print, scale: float) -> None:
    ink, edge = ("white", "white") if printed.board in DARK_COLOURS else ("black", "black")
    box = printed.box
    draw.rounded_rectangle(
        (box.left, box.top, box.right, box.bottom),
        radius=2 * scale,
        fill=_shade(lots, printed.board),
        outline=edge,
        width=max(1, round(scale)),
    )
    draw.text(box.centre, printed.text, font=font(printed.font, round(4 * printed.size)), fill=ink, anchor="mm")
