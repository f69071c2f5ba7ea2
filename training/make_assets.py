"""Draws the emoji that the scenes are made of into one image: `python -m training.make_assets [font]`.

Needs the font Noto Color Emoji (Debian: fonts-noto-color-emoji). The image is committed, so that rendering a scene
needs no installed font.
"""

import sys

from PIL import Image, ImageDraw, ImageFont

from training.scenes.sprites import ATLAS_COLUMNS, EMOJI_ATLAS, SPRITE_SIDE
from training.scenes.vocabulary import EMOJI

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
STRIKE = 109  # pixels: the only size of the font's bitmaps


def main() -> None:
    font = ImageFont.truetype(sys.argv[1] if len(sys.argv) > 1 else FONT, STRIKE)
    rows = -(-len(EMOJI) // ATLAS_COLUMNS)
    atlas = Image.new("RGBA", (ATLAS_COLUMNS * SPRITE_SIDE, rows * SPRITE_SIDE))
    for index, glyph in enumerate(EMOJI.values()):
        row, column = divmod(index, ATLAS_COLUMNS)
        atlas.paste(_draw(glyph, font), (column * SPRITE_SIDE, row * SPRITE_SIDE))
    atlas.save(EMOJI_ATLAS, optimize=True)


def _draw(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """The glyph without its margins, centred on a square."""
    image = Image.new("RGBA", (2 * SPRITE_SIDE, 2 * SPRITE_SIDE))
    ImageDraw.Draw(image).text((0, 0), glyph, font=font, embedded_color=True)
    image = image.crop(image.getbbox())
    image.thumbnail((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE_SIDE, SPRITE_SIDE))
    square.paste(image, ((SPRITE_SIDE - image.width) // 2, (SPRITE_SIDE - image.height) // 2))
    return square


if __name__ == "__main__":
    main()
