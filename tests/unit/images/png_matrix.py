"""PNG files of every kind, written here by the specification, and what they show by libpng's reading of them."""

import struct
import zlib
from collections.abc import Iterator
from itertools import product

import imagecodecs
import numpy as np

from tests.unit.images.variants import Variant, over_white, samples

SIZE = 29, 43
GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOUR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOUR_ALPHA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), COLOUR: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), COLOUR_ALPHA: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def variants() -> Iterator[Variant]:
    """All of them."""
    for colour_type, interlaced in product(CHANNELS, (False, True)):
        for depth in DEPTHS[colour_type]:
            array = samples(*SIZE, CHANNELS[colour_type], depth)
            for chunk in _metadata() if not interlaced else (None,):
                palette = _palette(depth) if colour_type == PALETTE else None
                data = png(array, colour_type, depth, interlaced=interlaced, palette=palette, extra=[chunk or ()])
                named = f"png type={colour_type} depth={depth} interlaced={interlaced} with {chunk and chunk[0]}"
                yield Variant(named, data, _shown(array, colour_type, depth, palette))
            if colour_type in (GREY, COLOUR):
                yield _transparent_colour(array, colour_type, depth, interlaced)
    for depth, count in product(DEPTHS[PALETTE], (1, 2)):
        alphas = np.linspace(0, 200, count).astype(np.uint8)
        palette, array = _palette(depth), samples(*SIZE, 1, depth)
        data = png(array, PALETTE, depth, palette=palette, transparency=alphas.tobytes())
        alpha = np.pad(alphas, (0, 2**depth - count), constant_values=255)[array[:, :, 0]][:, :, None] / 255
        shown = over_white(_shown(array, PALETTE, depth, palette), alpha)
        yield Variant(f"png palette depth={depth} with {count} alphas", data, shown)


def libpng(data):
    """The samples of a file by libpng, [height, width, samples]."""
    read = imagecodecs.png_decode(data)
    return read.reshape(*read.shape[:2], -1)


def png(array, colour_type, depth, *, interlaced=False, palette=None, transparency=None, extra=()):
    """A file of samples [height, width, channels], each row filtered by the next of the five kinds.

    Args:
        palette: [colours, 3].
        transparency: the content of tRNS.
        extra: pairs of name and content of further chunks, before the pixels.
    """
    height, width, channels = array.shape
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *(pair for pair in extra if pair)]
    if palette is not None:
        chunks.append((b"PLTE", palette.astype(np.uint8).tobytes()))
    if transparency is not None:
        chunks.append((b"tRNS", transparency))
    passes = [array[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [array]
    lines = b"".join(_filtered(one, depth, channels) for one in passes if one.size)
    return chunked([*chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")])


def chunked(chunks):
    """A PNG of (name, content)."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _filtered(array, depth, channels):
    bits = (array[..., None] >> np.arange(depth)[::-1] & 1).astype(np.uint8)
    rows = np.packbits(bits.reshape(len(array), -1), axis=1).astype(int)
    step = max(1, depth * channels // 8)
    above, out = np.zeros(rows.shape[1], int), b""
    for number, row in enumerate(rows):
        left, corner = (np.pad(line, (step, 0))[: len(row)] for line in (row, above))
        guess = left + above - corner
        distances = np.abs(np.stack([guess - left, guess - above, guess - corner]))
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        kind = number % 5
        predicted = (0 * row, left, above, (left + above) // 2, paeth)[kind]
        out += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def _palette(depth):
    return np.random.default_rng(depth).integers(0, 256, (2**depth, 3))


def _shown(array, colour_type, depth, palette):
    if colour_type == PALETTE:
        return palette[array[:, :, 0]].astype(float)
    values = array * (255 / (2**depth - 1))
    if colour_type in (GREY_ALPHA, COLOUR_ALPHA):
        values = over_white(values[:, :, :-1], values[:, :, -1:] / 255)
    return np.repeat(values, 3, axis=2) if colour_type in (GREY, GREY_ALPHA) else values


def _transparent_colour(array, colour_type, depth, interlaced):
    """One colour of the image is transparent, and only that: not those that share its upper bytes."""
    key = array[len(array) // 2, 5].astype(int)
    data = png(array, colour_type, depth, interlaced=interlaced, transparency=struct.pack(f">{len(key)}H", *key))
    shown = _shown(array, colour_type, depth, None)
    shown[(array == key).all(axis=2)] = 255
    return Variant(
        f"png type={colour_type} depth={depth} interlaced={interlaced} with a transparent colour", data, shown
    )


def _metadata():
    """Chunks that do not say what the pixels are, some of them broken."""
    text = zlib.compress(b"\0" * 3_000_000)
    return (
        None,
        (b"gAMA", struct.pack(">I", 20000)),
        (b"cHRM", b"\0" * 32),
        (b"sRGB", b"\7"),
        (b"iCCP", b"broken\0\0not a profile"),
        (b"zTXt", b"parameters\0\0" + text),
        (b"iTXt", b"parameters\0\1\0\0\0" + text),
        (b"tEXt", b"no separator"),
        (b"pHYs", b"\0"),
        (b"eXIf", b"II*\0\xff\xff\xff\xff"),
        (b"acTL", b"\xff" * 8),
        (b"tIME", b""),
        (b"sBIT", b"\0"),
        (b"prVt", b"\xff" * 70_000),
    )
