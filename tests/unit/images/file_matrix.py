"""Files of the other formats, and what they show by other decoders, or by the samples that they were made of."""

import io
import struct
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from tests.unit.images.variants import Variant, grey, over_white, samples

SIZE = 29, 43
DATA = Path(__file__).parent / "data"


def variants() -> Iterator[Variant]:
    """All of them."""
    for part in (_netpbm, _bmp_palettes, _bmp_colours, _gif, _jpeg, _webp, _jpeg2000, _avif, _heic):
        yield from part()


def _netpbm() -> Iterator[Variant]:
    height, width = SIZE
    for largest, count in product((1, 3, 100, 255, 256, 1000, 4095, 65535), (1, 3)):
        array = np.round(samples(*SIZE, count, 16) / 65535 * largest).astype(int)
        shown = np.broadcast_to(array * (255 / largest), (*SIZE, 3))
        head = f"# a comment\n{width} {height}\n{largest}\n".encode()
        binary, plain = (b"P5", b"P2") if count == 1 else (b"P6", b"P3")
        pixels = array.astype("u1" if largest < 256 else ">u2").tobytes()
        yield Variant(f"{binary.decode()} to {largest}", binary + b"\n" + head + pixels, shown)
        text = " ".join(str(value) for value in array.ravel()).encode()
        yield Variant(f"{plain.decode()} to {largest}", plain + b"\n" + head + text, shown)
    dark = samples(*SIZE, 1, 8)
    data = b"P5 %d %d 65535\n" % (width, height) + dark.astype(">u2").tobytes()
    yield Variant("P5 to 65535, dark", data, grey(dark * (255 / 65535)))
    black = samples(*SIZE, 1, 8) > 100
    yield Variant("P4", b"P4 %d %d\n" % (width, height) + np.packbits(black, axis=1).tobytes(), grey(255.0 * ~black))
    unit = samples(*SIZE, 1, 16) / 65535
    for scale, kind in ((-1, "<f4"), (1, ">f4")):
        head = f"Pf\n{width} {height}\n{scale}.0\n".encode()
        yield Variant(f"Pf {kind}", head + unit[::-1].astype(kind).tobytes(), grey(255 * unit))


def bmp(rows, bits, *, header=40, compression=0, masks=(), palette=(), colours=0, top_down=False):
    """A file of rows of pixels, [height, bytes]."""
    height, _ = rows.shape
    width = SIZE[1]
    body = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, 0, 1, 1,
                       colours, 0) + struct.pack(f"<{len(masks)}I", *masks)  # fmt: skip
    body = struct.pack("<IHHHH", 12, width, height, 1, bits) if header == 12 else body.ljust(header, b"\0")
    entry = 3 if header == 12 else 4
    body += b"".join(bytes((*colour[::-1], 0)[:entry]) for colour in palette)
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    pixels = (padded if top_down else padded[::-1]).astype(np.uint8).tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(body) + len(pixels), 0, 0, 14 + len(body)) + body + pixels


def _bmp_palettes() -> Iterator[Variant]:
    for bits, kind, (header, top_down) in product(
        (1, 4, 8), ("colours", "grey", "two", "two inverted"), ((12, False), (40, False), (40, True), (108, False))
    ):
        size = 2**bits
        ramp = np.linspace(0, 255, size).astype(int)[:, None]
        table = np.random.default_rng(bits).integers(0, 256, (size, 3)) if kind == "colours" else np.repeat(ramp, 3, 1)
        named = 2 if kind.startswith("two") and header > 12 else 0
        if named:
            table = np.array([[0] * 3, [255] * 3])[:: -1 if kind == "two inverted" else 1]
        array = samples(*SIZE, 1, bits)[:, :, 0].astype(int) % len(table)
        packed = np.packbits(
            (array[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).reshape(SIZE[0], -1), axis=1
        )
        data = bmp(packed, bits, header=header, palette=table.tolist(), colours=named, top_down=top_down)
        yield Variant(f"bmp{bits} {kind} header={header} top_down={top_down}", data, table[array].astype(float))


def _bmp_colours() -> Iterator[Variant]:
    rgb = samples(*SIZE, 3, 8)
    yield Variant("bmp24", bmp(rgb[:, :, ::-1].reshape(SIZE[0], -1), 24), rgb.astype(float))
    for name, widths, masks in (
        ("555", (5, 5, 5), ()),
        ("555 by masks", (5, 5, 5), (0x7C00, 0x3E0, 0x1F)),
        ("565", (5, 6, 5), (0xF800, 0x7E0, 0x1F)),
    ):
        red, green, blue = (rgb[:, :, band].astype(np.uint16) >> (8 - width) for band, width in enumerate(widths))
        words = red << (widths[1] + widths[2]) | green << widths[2] | blue
        shown = np.stack([red, green, blue], axis=2) * (255 / (2.0 ** np.array(widths) - 1))
        data = bmp(words.astype("<u2").view(np.uint8), 16, compression=3 if masks else 0, masks=masks)
        yield Variant(f"bmp16 {name}", data, shown)
    with_alpha = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for name, alpha in (("0", 0), ("255", 255), ("varied", samples(*SIZE, 1, 8, seed=4))):
        stored = np.concatenate([rgb[:, :, ::-1], np.broadcast_to(alpha, (*SIZE, 1))], axis=2).reshape(SIZE[0], -1)
        meant = over_white(rgb, alpha / 255) if name == "varied" else rgb.astype(float)
        yield Variant(f"bmp32 without alpha, {name}", bmp(stored, 32), rgb.astype(float))
        for header in (56, 108, 124):
            data = bmp(stored, 32, header=header, compression=3, masks=with_alpha)
            yield Variant(f"bmp32 header={header} alpha={name}", data, meant)


def _gif() -> Iterator[Variant]:
    """A frame that fills the screen, and one that does not."""
    table = np.random.default_rng(0).integers(0, 256, (256, 3))
    array = samples(*SIZE, 1, 2)[:, :, 0]
    for transparent, offset in product((None, 2), (0, 7)):
        shown = np.full((SIZE[0] + offset, SIZE[1] + offset, 3), 255.0)
        shown[offset:, offset:] = table[array]
        if transparent is not None:
            shown[offset:, offset:][array == transparent] = 255
        yield Variant(f"gif {transparent} {offset}", gif(array, table, transparent, offset), shown)


def gif(array, table, transparent, offset):
    """One frame down and to the right of the screen's corner, its pixels stored without compression."""
    height, width = array.shape
    codes = [
        code for index, value in enumerate(array.ravel()) for code in ((256, value) if index % 200 == 0 else (value,))
    ]
    stream = sum(int(code) << 9 * index for index, code in enumerate([*codes, 257]))
    stored = stream.to_bytes(9 * (len(codes) + 1) // 8 + 1, "little")
    blocks = b"".join(bytes([len(stored[i : i + 255])]) + stored[i : i + 255] for i in range(0, len(stored), 255))
    data = (
        b"GIF89a"
        + struct.pack("<HHBBB", width + offset, height + offset, 0xF7, 0, 0)
        + table.astype(np.uint8).tobytes()
    )
    if transparent is not None:
        data += b"\x21\xf9\4" + bytes([1, 0, 0, transparent, 0])
    return data + b"\x2c" + struct.pack("<HHHHB", offset, offset, width, height, 0) + b"\x08" + blocks + b"\0;"


def _jpeg() -> Iterator[Variant]:
    rgb = samples(*SIZE, 3, 8)
    for mode, options in product(("L", "RGB", "CMYK"), ({}, {"progressive": True}, {"subsampling": 2}, {"restart": 1})):
        chosen = {"restart_marker_rows": 1} if "restart" in options else options
        data = saved(
            Image.fromarray(rgb).convert(mode),
            "JPEG",
            quality=92,
            **({} if mode == "L" and "subsampling" in chosen else chosen),
        )
        yield Variant(f"jpeg {mode} {options}", data, by_libjpeg(data))
    data = saved(Image.fromarray(rgb), "JPEG", quality=92)
    for name, segment in _segments():
        yield Variant(f"jpeg with {name}", data[:2] + segment + data[2:], by_libjpeg(data))


def by_libjpeg(data):
    read = imagecodecs.jpeg8_decode(data).astype(float)
    if read.ndim == 2:
        return grey(read[:, :, None])
    return read if read.shape[2] == 3 else read[:, :, :3] * read[:, :, 3:] / 255  # of CMYK the share of paper


def _segments():
    def segment(marker, content):
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    yield "a broken profile", segment(0xE2, b"ICC_PROFILE\0\1\1garbage")
    yield "broken parts of a profile", segment(0xE2, b"ICC_PROFILE\0\2\5x")
    yield "a broken index of images", segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff")
    yield "a short JFIF segment", segment(0xE0, b"JFIF\0")
    yield "a short Adobe segment", segment(0xEE, b"Adobe\0")
    yield "a cut Photoshop segment", segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0")
    yield "empty EXIF", segment(0xE1, b"Exif\0\0")
    yield "broken EXIF", segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield "an empty segment", segment(0xE1, b"")
    yield "2 MB of segments", segment(0xE5, b"x" * 60_000) * 35
    yield "markers in a comment", segment(0xFE, b"\xff\xd9\xff\xd8")
    yield "padding", b"\xff\xff\xff" + segment(0xFE, b"x")


def _webp() -> Iterator[Variant]:
    for count, options in product((3, 4), ({"lossless": True, "exact": True}, {"quality": 80})):
        image = Image.fromarray(samples(*SIZE, count, 8))
        broken = {"exif": b"broken", "xmp": b"<broken", "icc_profile": b"broken"}
        second = {"save_all": True, "append_images": [Image.new(image.mode, image.size)]} if "exact" in options else {}
        for name, extra in (("", {}), ("broken metadata", broken), ("a second frame", second)):
            data = saved(image, "WEBP", **options, **extra)
            read = imagecodecs.webp_decode(saved(image, "WEBP", **options)).astype(float)
            shown = over_white(read[:, :, :3], read[:, :, 3:] / 255) if count == 4 else read
            yield Variant(f"webp x{count} {options} {name}", data, shown)


def _jpeg2000() -> Iterator[Variant]:
    for form, count, bits in product(("jp2", "j2k"), (1, 2, 3, 4), (1, 4, 8, 10, 12, 16)):
        array = samples(*SIZE, count, bits)
        stored = array[:, :, 0] if count == 1 else array
        data = imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat=form, bitspersample=bits)
        read = imagecodecs.jpeg2k_decode(data).reshape(*SIZE, -1) * (255 / (2**bits - 1))
        shown = over_white(read[:, :, :-1], read[:, :, -1:] / 255) if count in (2, 4) else read
        refused = f"{count} samples of {bits} bits" if count > 1 and bits > 8 else None
        yield Variant(f"{form} x{count} {bits} bits", data, np.broadcast_to(shown, (*SIZE, 3)), refused=refused)


def _avif() -> Iterator[Variant]:
    for count, bits in product((3, 4), (8, 10, 12)):
        data = imagecodecs.avif_encode(samples(*SIZE, count, bits), level=100, speed=8, bitspersample=bits)
        read = imagecodecs.avif_decode(data) * (255 / (2**bits - 1))
        shown = over_white(read[:, :, :3], read[:, :, 3:] / 255) if count == 4 else read
        yield Variant(f"avif x{count} {bits} bits", data, shown, tolerance=1.51)


def _heic() -> Iterator[Variant]:
    """Written by ImageMagick from `samples`; the compression loses some."""
    shown = samples(64, 80, 3, 8).astype(float)
    yield Variant("heic", (DATA / "waves.heic").read_bytes(), shown, tolerance=23)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
