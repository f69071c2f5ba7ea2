"""TIFF files of every kind, written by tifffile, and what they show by its reading of them."""

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.unit.images.variants import Variant, grey, over_white, samples

SIZE = 37, 53  # height, width: no multiple of a tile's or a byte's
TILE = (16, 16)
COMPRESSIONS = (None, "zlib", "lzw", "packbits", "zstd", "lzma")
PREDICTED = ("zlib", "lzw", "zstd", "lzma")
CODECS = {None: (1, bytes), "zlib": (8, zlib.compress), "lzw": (5, imagecodecs.lzw_encode)}  # TIFF's number, encoder
ORDERS = ("<", ">")
_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def variants() -> Iterator[Variant]:
    """All of them."""
    for part in (
        _grey,
        _widths,
        _fill_order,
        _colours,
        _floats,
        _alpha,
        _palettes,
        _inks_and_lab,
        _jpeg,
        _ccitt,
        _shared_colours,
        _places,
        _orientations,
    ):
        yield from part()


def tiff(array, **options):
    """A file, and the first page's samples as tifffile reads them back, [height, width, samples]."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue(), read_back(buffer.getvalue())


def read_back(data):
    """The first page's samples by tifffile, [height, width, samples]."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        read = page.asarray()
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            read = np.moveaxis(read, 0, -1)
    return read.reshape(*read.shape[:2], -1)


def packed(array, bits, *, order="<", compression=None, rows=8, **tags):
    """A file of strips, written here: tifffile compresses no samples that do not fill their bytes.

    Args:
        tags: further ones as t262=(3, values), with TIFF's number for their type.
    """
    height, width, count = array.shape
    shifts = np.arange(bits)[::-1]
    lines = np.packbits((array[..., None] >> shifts & 1).astype(np.uint8).reshape(height, -1), axis=1)
    code, encode = CODECS[compression]
    strips = [encode(lines[top : top + rows].tobytes()) for top in range(0, height, rows)]
    given = {int(name[1:]): value for name, value in tags.items()}
    return written(strips, order, {
        256: (4, width), 257: (4, height), 258: (3, (bits,) * count), 259: (3, code), 262: (3, 1), 277: (3, count),
        278: (4, rows), **given,
    })  # fmt: skip


def written(strips, order, tags):
    """A TIFF of these strips and tags."""
    ends = np.cumsum([8, *(len(strip) for strip in strips)])
    tags = {**tags, 273: (4, ends[:-1]), 279: (4, np.diff(ends))}
    directory, outside = b"", b""
    first = int(ends[-1]) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        content = np.atleast_1d(values).astype(np.dtype({1: "u1", 3: "u2", 4: "u4", 5: "u4"}[kind]).newbyteorder(order))
        field = content.tobytes().ljust(4, b"\0")
        if len(field) > 4:
            field = struct.pack(order + "I", first + len(outside))
            outside += content.tobytes()
        directory += struct.pack(order + "HHI", tag, kind, content.size // (2 if kind == 5 else 1)) + field
    start = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, int(ends[-1]))
    return b"".join([start, *strips, struct.pack(order + "H", len(tags)), directory, bytes(4), outside])


def scaled(values, white):
    """0..white as 0..255, not rounded."""
    return values.astype(np.float64) * (255 / white)


def _grey() -> Iterator[Variant]:
    """8 and 16 bits, black or white at 0, in either byte order, in strips and tiles, however compressed."""
    for bits, photometric, order, compression, tiled in product(
        (8, 16), ("minisblack", "miniswhite"), ORDERS, COMPRESSIONS, (False, True)
    ):
        options: dict[str, Any] = {"tile": TILE} if tiled else {"rowsperstrip": 7}
        if compression in PREDICTED and photometric == "minisblack":
            options["predictor"] = 2
        array = samples(*SIZE, 1, bits)[:, :, 0]
        data, read = tiff(array, photometric=photometric, byteorder=order, compression=compression, **options)
        shown = scaled(read, 2**bits - 1)
        shown = 255 - shown if photometric == "miniswhite" else shown
        yield Variant(f"grey{bits} {photometric} {order} {compression} tiled={tiled}", data, grey(shown))


def _widths() -> Iterator[Variant]:
    """Samples that do not fill their bytes."""
    for bits, photometric, order, compression in product(
        (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15), ("minisblack", "miniswhite"), ORDERS, (None, "lzw")
    ):
        code = 0 if photometric == "miniswhite" else 1
        data = packed(samples(*SIZE, 1, bits), bits, order=order, compression=compression, t262=(3, code))
        shown = scaled(read_back(data), 2**bits - 1)
        shown = 255 - shown if photometric == "miniswhite" else shown
        yield Variant(f"grey{bits} {photometric} {order} {compression}", data, grey(shown))


def _fill_order() -> Iterator[Variant]:
    """The bits of each byte in reverse."""
    for bits, order, compression in product((1, 4, 8, 12), ORDERS, (None, "lzw")):
        array = samples(*SIZE, 1, bits)
        straight = packed(array, bits, order=order, compression=compression, rows=SIZE[0], t266=(3, 1))
        with tifffile.TiffFile(io.BytesIO(straight)) as file:
            start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        stored = np.frombuffer(straight[start : start + size], np.uint8)[:, None]
        reverse = np.packbits(np.unpackbits(stored, axis=1)[:, ::-1], axis=1).tobytes()
        data = packed(array, bits, order=order, compression=compression, rows=SIZE[0], t266=(3, 2))
        data = data[:start] + reverse + data[start + size :]
        yield Variant(f"fill order {bits} {order} {compression}", data, grey(scaled(read_back(data), 2**bits - 1)))


def _colours() -> Iterator[Variant]:
    for bits, planar, order, compression, tiled in product(
        (8, 16), ("contig", "separate"), ORDERS, (None, "zlib", "lzw", "zstd"), (False, True)
    ):
        options: dict[str, Any] = {"tile": TILE} if tiled else {"rowsperstrip": 5}
        if compression in PREDICTED:
            options["predictor"] = 2
        array = samples(*SIZE, 3, bits)
        array = np.moveaxis(array, 2, 0) if planar == "separate" else array
        data, read = tiff(
            array, photometric="rgb", planarconfig=planar, byteorder=order, compression=compression, **options
        )
        yield Variant(f"rgb{bits} {planar} {order} {compression} tiled={tiled}", data, scaled(read, 2**bits - 1))
    for bits, compression in product((2, 4, 5, 10, 12, 14), (None, "zlib")):
        data = packed(samples(*SIZE, 3, bits), bits, compression=compression, t262=(3, 2))
        yield Variant(f"rgb{bits} {compression}", data, scaled(read_back(data), 2**bits - 1))


def _floats() -> Iterator[Variant]:
    """Samples whose type has no white: by the range that is in the image."""
    unit = samples(*SIZE, 3, 16) / np.float64(65535)
    for kind, count, order, (compression, predictor) in product(
        ("float16", "float32", "float64"), (1, 3), ORDERS, ((None, None), ("zlib", None), ("lzw", 3), ("zstd", 3))
    ):
        for photometric in ("minisblack", "miniswhite") if count == 1 else ("rgb",):
            array = unit[:, :, :count].astype(kind)
            options = {"photometric": photometric, "byteorder": order, "compression": compression}
            data, read = tiff(array.squeeze(), predictor=predictor, rowsperstrip=9, **options)
            shown = scaled(read, 1)
            shown = 255 - shown if photometric == "miniswhite" else shown
            yield Variant(
                f"{kind} x{count} {photometric} {order} {compression} {predictor}",
                data,
                grey(shown) if count == 1 else shown,
            )
    for kind, low, high in (("int8", -90, 100), ("int16", -20000, 30000), ("int32", -9, 10**6), ("int64", -7, 10**9)):
        for order, compression in product(ORDERS, (None, "lzw")):
            array = np.round(unit[:, :, 0] * (high - low) + low).astype(kind)
            array[0, :2] = low, high
            data, read = tiff(array, photometric="minisblack", byteorder=order, compression=compression)
            yield Variant(f"{kind} {order} {compression}", data, grey(scaled(read.astype(float) - low, high - low)))
    highs = {"uint32": (2**32 - 1, 65535, 255), "int64": (255,), "uint64": (200, 2**40)}
    for kind, high in ((kind, high) for kind, values in highs.items() for high in values):
        array = np.round(unit[:, :, 0] * high).astype(kind)
        array[0, :2] = 0, high
        data, read = tiff(array, photometric="minisblack")
        yield Variant(f"{kind} to {high}", data, grey(scaled(read, max(high, 255))))


def _alpha() -> Iterator[Variant]:
    for bits, count, kind, planar, compression in product(
        (8, 16), (1, 3), ("unassalpha", "assocalpha", "unspecified"), ("contig", "separate"), (None, "lzw")
    ):
        array = samples(*SIZE, count + 1, bits)
        if kind == "assocalpha":
            share = array[:, :, -1:] / (2**bits - 1)
            array[:, :, :-1] = np.round(array[:, :, :-1] * share)
        stored = np.moveaxis(array, 2, 0) if planar == "separate" else array
        photometric = "rgb" if count == 3 else "minisblack"
        options = {"photometric": photometric, "planarconfig": planar, "extrasamples": [kind]}
        data, read = tiff(stored, compression=compression, **options)
        colours, alpha = scaled(read[:, :, :count], 2**bits - 1), read[:, :, count:] / (2**bits - 1)
        if kind == "unassalpha":
            shown = over_white(colours, alpha)
        else:
            shown = colours + 255 * (1 - alpha) if kind == "assocalpha" else colours
        yield Variant(f"{photometric}{bits} {kind} {planar} {compression}", data, grey(shown) if count == 1 else shown)
    array = samples(*SIZE, 4, 16) / np.float32(65535)
    data, read = tiff(array.astype(np.float32), photometric="rgb", extrasamples=["unassalpha"])
    yield Variant("rgb float alpha", data, over_white(scaled(read[:, :, :3], 1), read[:, :, 3:]))
    array = samples(*SIZE, 5, 8)
    data, read = tiff(array, photometric="rgb", extrasamples=["unspecified", "unassalpha"])
    yield Variant("rgb, something, alpha", data, over_white(scaled(read[:, :, :3], 255), read[:, :, 4:] / 255))


def _palettes() -> Iterator[Variant]:
    for bits, order, compression, white in product((1, 2, 4, 8), ORDERS, (None, "lzw"), (65535, 255)):
        palette = np.random.default_rng(bits).integers(0, white + 1, (3, 2**bits), np.uint16)
        tags = {"t262": (3, 3), "t320": (3, palette.ravel())}
        data = packed(samples(*SIZE, 1, bits), bits, order=order, compression=compression, **tags)
        shown = scaled(palette.T[read_back(data)[:, :, 0].astype(int)], white)
        yield Variant(f"palette{bits} {order} {compression} to {white}", data, shown)
    palette = np.random.default_rng(16).integers(0, 65536, (3, 65536), np.uint16)
    data, read = tiff(samples(*SIZE, 1, 16)[:, :, 0], photometric="palette", colormap=palette)
    yield Variant("palette16", data, scaled(palette.T[read[:, :, 0]], 65535))


def _inks_and_lab() -> Iterator[Variant]:
    for bits, planar, compression in product((8, 16), ("contig", "separate"), (None, "lzw")):
        array = samples(*SIZE, 4, bits)
        array = np.moveaxis(array, 2, 0) if planar == "separate" else array
        data, read = tiff(array, photometric="separated", planarconfig=planar, compression=compression)
        inks = read / (2**bits - 1)
        shown = 255 * (1 - inks[:, :, :3]) * (1 - inks[:, :, 3:])
        yield Variant(f"cmyk{bits} {planar} {compression}", data, shown)
    for bits, compression in product((8, 16), (None, "zlib")):
        # Colours that sRGB has, so that no limit decides about the comparison.
        lightness = samples(*SIZE, 1, bits) // 2 + 2 ** (bits - 2)
        tints = (samples(*SIZE, 2, bits, seed=1) / 2.0**bits * 30 - 15) * 2.0 ** (bits - 8)
        array = np.concatenate([lightness, np.round(tints).astype(f"i{bits // 8}").view(lightness.dtype)], axis=2)
        data, read = tiff(array, photometric="cielab", compression=compression)
        star = np.concatenate(
            [read[:, :, :1] * (100 / (2**bits - 1)), read[:, :, 1:].view(f"i{bits // 8}") / 2.0 ** (bits - 8)], axis=2
        )
        yield Variant(f"lab{bits} {compression}", data, lab_to_srgb(star), tolerance=2)
    data, read = tiff(samples(*SIZE, 3, 8), photometric="ycbcr")
    yield Variant("ycbcr", data, from_ycbcr(read))


def lab_to_srgb(star):
    """CIE L*a*b* under D50 to sRGB, adapted to D65 by Bradford's method."""
    fy = (star[:, :, 0] + 16) / 116
    f = np.stack([fy + star[:, :, 1] / 500, fy, fy - star[:, :, 2] / 200], axis=2)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1.0, 0.8249)
    to_linear = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]]
    to_linear += [[0.0719453, -0.2289914, 1.4052427]]
    linear = (xyz @ np.array(to_linear).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _jpeg() -> Iterator[Variant]:
    smooth = samples(64, 80, 3, 8)
    for photometric, tiled in product(("minisblack", "rgb", "ycbcr"), (False, True)):
        array = smooth[:, :, 0] if photometric == "minisblack" else smooth
        options = {"tile": (32, 32)} if tiled else {"rowsperstrip": 16}
        data, read = tiff(array, photometric=photometric, compression="jpeg", compressionargs={"level": 95}, **options)
        yield Variant(f"jpeg {photometric} tiled={tiled}", data, np.broadcast_to(read, (64, 80, 3)), tolerance=3)


def _ccitt() -> Iterator[Variant]:
    """Written by Pillow: tifffile writes none."""
    for compression, code in product(("tiff_ccitt", "group3", "group4"), (0, 1)):
        buffer = io.BytesIO()
        Image.fromarray(samples(*SIZE, 1, 8)[:, :, 0] > 100).save(
            buffer, "TIFF", compression=compression, tiffinfo={262: code}
        )
        bits = read_back(buffer.getvalue()).astype(float)
        yield Variant(f"{compression} {code}", buffer.getvalue(), grey(255 * (bits if code else 1 - bits)))


def _shared_colours() -> Iterator[Variant]:
    """YCbCr whose pixels share colours: each unit has the brightness of its pixels, then one Cb and one Cr."""
    height, width = SIZE
    for (across, down), compression in product(((2, 1), (2, 2), (4, 1), (4, 2), (1, 2)), (None, "zlib", "lzw")):
        rows, columns = -(-height // down), -(-width // across)
        luma = samples(rows * down, columns * across, 1, 8)[:, :, 0]
        chroma = samples(rows, columns, 2, 8, seed=3) // 2 + 64
        by_unit = luma.reshape(rows, down, columns, across).swapaxes(1, 2).reshape(rows, columns, -1)
        units = np.concatenate([by_unit, chroma], axis=2)
        code, encode = CODECS[compression]
        strips = [encode(units[top : top + 4].tobytes()) for top in range(0, rows, 4)]
        tags = {256: (4, width), 257: (4, height), 258: (3, (8, 8, 8)), 259: (3, code), 262: (3, 6), 277: (3, 3)}
        data = written(strips, "<", {**tags, 278: (4, 4 * down), 530: (3, (across, down))})
        shared = chroma.repeat(down, axis=0).repeat(across, axis=1)
        shown = from_ycbcr(np.concatenate([luma[:, :, None], shared], axis=2)[:height, :width])
        yield Variant(f"ycbcr {across}x{down} {compression}", data, shown)


def from_ycbcr(array):
    y, cb, cr = np.moveaxis(array.astype(float) - (0, 128, 128), 2, 0)
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=2).clip(0, 255)


def _places() -> Iterator[Variant]:
    """Where the samples lie in the file."""
    array = samples(*SIZE, 3, 16)
    for order, compression in product(ORDERS, (None, "lzw")):
        data, read = tiff(array, photometric="rgb", bigtiff=True, byteorder=order, compression=compression)
        yield Variant(f"bigtiff {order} {compression}", data, scaled(read, 65535))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(array, photometric="rgb", metadata=None)
        file.write(np.zeros((5, 5), np.uint8), metadata=None)
    yield Variant("two pages", buffer.getvalue(), scaled(array, 65535))
    for rows in (1, 37, 1000):
        data, read = tiff(array, photometric="rgb", rowsperstrip=rows, compression="zlib")
        yield Variant(f"{rows} rows in a strip", data, scaled(read, 65535))


def _orientations() -> Iterator[Variant]:
    array = samples(*SIZE, 3, 8)
    for orientation, turn in _TURNS.items():
        data, read = tiff(array, photometric="rgb", extratags=[(274, "H", 1, orientation, True)], compression="lzw")
        yield Variant(f"orientation {orientation}", data, turn(read))
