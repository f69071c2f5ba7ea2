"""Converts TIFF samples to 8-bit RGB by their photometric interpretation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from visionsplit.errors import InvalidImageError
from visionsplit.images.lab import lab_to_rgb
from visionsplit.images.scaling import BYTE, Bytes, Samples, Scale, of_bits, of_range
from visionsplit.images.tiff.accepted import check_parts
from visionsplit.images.tiff.directory import Tag
from visionsplit.images.tiff.layout import ASSOCIATED, UNASSOCIATED, Compression, Layout, Photometric
from visionsplit.images.tiff.samples import read_blocks

ToRgb: TypeAlias = Callable[[Samples], Bytes]  # [height, width, colours] to [height, width, 3]

_REC_601 = (0.299, 0.587, 0.114)
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)


@dataclass(frozen=True)
class _Alpha:
    index: int  # of its sample
    associated: bool  # whether the colours are multiplied by it
    declared: bool  # whether the file declares it as alpha


def decode(data: bytes, layout: Layout) -> Image.Image:
    """The page as an image of mode RGB, as stored: not rotated by its orientation.

    Raises:
        InvalidImageError: the samples are truncated, not numbers, or in strips or tiles that are not supported.
    """
    check_parts(layout, len(data))
    alpha = _alpha(layout)
    if alpha and not alpha.declared and not _any(data, layout, alpha.index):
        alpha = None
    scale = scale_of(layout, (block[:, :, : layout.colours] for _, block in read_blocks(data, layout)))
    to_rgb = _conversion(layout, scale)
    rgb = Image.new("RGB", (layout.width, layout.height))
    for box, block in read_blocks(data, layout):
        colours = block[:, :, : layout.colours]
        if alpha:
            converted = _over_white(colours, _opacity(layout, block[:, :, alpha.index]), alpha, scale, to_rgb)
        else:
            converted = to_rgb(colours)
        rgb.paste(Image.fromarray(np.ascontiguousarray(converted)), box)
    return rgb


def scale_of(layout: Layout, blocks: Iterator[Samples]) -> Scale:
    """The scale of the colours' samples. Blocks are read only if the type does not determine it."""
    if layout.sample_type == "uint" and layout.bits <= 16:
        return of_bits(layout.bits)
    return of_range(blocks, stretched=layout.sample_type == "int" and layout.bits <= 16)


def _alpha(layout: Layout) -> _Alpha | None:
    for index, kind in enumerate(layout.extra[: layout.samples - layout.colours], layout.colours):
        if kind in (ASSOCIATED, UNASSOCIATED):
            return _Alpha(index, kind == ASSOCIATED, declared=True)
    grey_or_rgb = layout.photometric in (Photometric.WHITE_IS_ZERO, Photometric.BLACK_IS_ZERO, Photometric.RGB)
    if grey_or_rgb and not layout.extra and layout.samples == layout.colours + 1:
        return _Alpha(layout.colours, associated=False, declared=False)
    return None


def _any(data: bytes, layout: Layout, sample: int) -> bool:
    """Whether one sample of the pixels differs from 0 anywhere."""
    return any(block[:, :, sample].any() for _, block in read_blocks(data, layout))


def _opacity(layout: Layout, samples: Samples) -> Samples:
    """Alpha from 0 to 1, [height, width, 1]."""
    if layout.sample_type == "uint":
        return samples[:, :, None].astype(np.float64) / (2.0**layout.bits - 1)
    if layout.sample_type == "int" or not ((samples >= 0) & (samples <= 1)).all():
        raise InvalidImageError("a TIFF with signed alpha, or alpha beyond 0 to 1, is not supported")
    return samples[:, :, None].astype(np.float64)


def _over_white(colours: Samples, opacity: Samples, alpha: _Alpha, scale: Scale, to_rgb: ToRgb) -> Bytes:
    if alpha.associated:
        colours = (colours / np.maximum(opacity, 1e-9)).clip(scale.black, scale.white)
    blended: Samples = np.round(to_rgb(colours) * opacity + 255 * (1 - opacity))
    return blended.astype(np.uint8)


def _conversion(layout: Layout, scale: Scale) -> ToRgb:
    if layout.compression == Compression.JPEG and layout.colours == 3:
        return BYTE.to_bytes  # the JPEG decoder has already converted YCbCr to RGB
    match layout.photometric:
        case Photometric.WHITE_IS_ZERO:
            return lambda samples: (255 - scale.to_bytes(samples)).repeat(3, axis=2)
        case Photometric.BLACK_IS_ZERO:
            return lambda samples: scale.to_bytes(samples).repeat(3, axis=2)
        case Photometric.PALETTE:
            palette = _palette(layout)
            return lambda samples: palette[samples[:, :, 0].astype(np.intp)]
        case Photometric.CMYK:
            return lambda samples: _cmyk_to_rgb(samples, scale.white)
        case Photometric.YCBCR:
            return lambda samples: _ycbcr_to_rgb(layout, samples)
        case Photometric.CIELAB:
            return lambda samples: _lab_to_rgb(layout, samples)
        case Photometric.RGB:
            return scale.to_bytes


def _palette(layout: Layout) -> Bytes:
    """The palette, [colours, 3]. Some programs write 8-bit values, although the format defines 16-bit ones."""
    values = np.array(layout.tags.get(Tag.COLOR_MAP, ()))
    size = 2**layout.bits
    if len(values) < 3 * size:
        raise InvalidImageError(f"the TIFF is broken: its palette has {len(values) // 3} of {size} colours")
    scale = BYTE if values.max() < 256 else of_bits(16)
    return scale.to_bytes(values[: 3 * size]).reshape(3, size).T


def _cmyk_to_rgb(inks: Samples, white: float) -> Bytes:
    paper = (1 - inks / white).clip(0, 1)
    rgb: Samples = np.round(255 * paper[:, :, :3] * paper[:, :, 3:])
    return rgb.astype(np.uint8)


def _ycbcr_to_rgb(layout: Layout, samples: Samples) -> Bytes:
    """TIFF 6.0, section 21."""
    red, green, blue = (layout.tags.get(Tag.YCBCR_COEFFICIENTS) or _REC_601)[:3]
    levels = np.array((layout.tags.get(Tag.REFERENCE_BLACK_WHITE) or _FULL_RANGE)[:6]).reshape(3, 2)  # black, white
    spans = np.maximum(levels[:, 1] - levels[:, 0], 1)
    y, cb, cr = np.moveaxis((samples - levels[:, 0]) * (np.array([255, 127, 127]) / spans), 2, 0)
    r = y + cr * (2 - 2 * red)
    b = y + cb * (2 - 2 * blue)
    g = (y - red * r - blue * b) / green
    return np.round(np.stack([r, g, b], axis=2)).clip(0, 255).astype(np.uint8)


def _lab_to_rgb(layout: Layout, samples: Samples) -> Bytes:
    """Convert L*a*b* samples. The last two are signed, whatever the file declares."""
    lightness = samples[:, :, 0].view(f"u{layout.bits // 8}") * (100 / (2**layout.bits - 1))
    tints = samples.view(f"i{layout.bits // 8}")[:, :, 1:] / 2 ** (layout.bits - 8)
    return lab_to_rgb(lightness, tints)
