"""Renders the sample images of models/samples: small scenes of emoji, shapes and signs.

    python training/render_samples.py models/samples

Needs the fonts Noto Color Emoji and DejaVu Sans Bold (Debian: fonts-noto-color-emoji, fonts-dejavu-core).
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 448  # pixels; the shipped checkpoint cuts this into 2 x 2 crops
EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SIGN_FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
EMOJI = {
    "apple": "🍎",
    "ball": "⚽",
    "banana": "🍌",
    "bird": "🐦",
    "book": "📕",
    "bus": "🚌",
    "cat": "🐱",
    "clock": "⏰",
    "dog": "🐶",
    "fish": "🐟",
    "guitar": "🎸",
    "house": "🏠",
    "pizza": "🍕",
    "tree": "🌳",
    "umbrella": "☂",
}
COLOURS = ("red", "blue", "green", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle")
SIGN_CHARACTERS = "ACDEFGHJKLMNPRTUVWXY34679"


@dataclass(frozen=True)
class Sample:
    name: str
    seed: int
    signs: int
    objects: int


# Seeds whose scenes the stand-in checkpoint describes well uncompressed; models/samples/README.md says so.
SAMPLES = (
    Sample("bus", seed=4, signs=0, objects=3),
    Sample("shapes", seed=8, signs=0, objects=4),
    Sample("bird", seed=56, signs=0, objects=4),
    Sample("sign", seed=75, signs=1, objects=2),
)


def render(sample: Sample) -> tuple[Image.Image, list[str]]:
    """The scene and what is in it."""
    draw_lots = random.Random(sample.seed)
    background = tuple(draw_lots.randint(170, 235) for _ in range(3))
    image = Image.new("RGB", (SIDE, SIDE), background)
    places = [(column, row) for column in range(3) for row in range(3)]
    draw_lots.shuffle(places)
    items = []
    for index in range(sample.signs + sample.objects):
        column, row = places[index]
        corner = (column * 150 + draw_lots.randint(5, 40), row * 150 + draw_lots.randint(5, 40))
        if index < sample.signs:
            items.append(_draw_sign(image, corner, draw_lots))
        elif draw_lots.random() < 0.6:
            items.append(_draw_emoji(image, corner, draw_lots))
        else:
            items.append(_draw_shape(image, corner, draw_lots))
    return image, items


def _draw_sign(image: Image.Image, corner: tuple[int, int], draw_lots: random.Random) -> str:
    text = "".join(draw_lots.sample(SIGN_CHARACTERS, draw_lots.randint(2, 3)))
    font = ImageFont.truetype(SIGN_FONT, draw_lots.randint(24, 28))
    draw = ImageDraw.Draw(image)
    x, y = corner
    draw.rectangle((x, y, x + draw.textlength(text, font=font) + 16, y + 42), fill="white", outline="black", width=2)
    draw.text((x + 8, y + 6), text, font=font, fill="black")
    return f"sign {text}"


def _draw_emoji(image: Image.Image, corner: tuple[int, int], draw_lots: random.Random) -> str:
    name = draw_lots.choice(sorted(EMOJI))
    size = draw_lots.randint(72, 96)
    glyph = Image.new("RGBA", (136, 128), (0, 0, 0, 0))
    ImageDraw.Draw(glyph).text((0, 0), EMOJI[name], font=ImageFont.truetype(EMOJI_FONT, 109), embedded_color=True)
    glyph = glyph.resize((size, size), Image.Resampling.BICUBIC)
    image.paste(glyph, corner, glyph)
    return name


def _draw_shape(image: Image.Image, corner: tuple[int, int], draw_lots: random.Random) -> str:
    colour, shape = draw_lots.choice(COLOURS), draw_lots.choice(SHAPES)
    (x, y), size = corner, draw_lots.randint(72, 96)
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((x, y, x + size, y + size), fill=colour)
    elif shape == "square":
        draw.rectangle((x, y, x + size, y + size), fill=colour)
    else:
        draw.polygon([(x + size / 2, y), (x, y + size), (x + size, y + size)], fill=colour)
    return f"{colour} {shape}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        image, items = render(sample)
        image.save(folder / f"{sample.name}.png", optimize=True)
        print(f"{sample.name}.png: {', '.join(items)}")


if __name__ == "__main__":
    main()
