"""Images and tokens to measure with; none occurs twice, because a cache would answer."""

import io
import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from visionsplit.errors import UnavailableError
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Failure
from visionsplit_client import EncodedImage

from visionsplit_cli.checkout import sample_images

MOST_ROWS = 16  # of the input: every image is encoded at every ratio
_DRAWN_SIZES = ((1024, 768), (768, 1024), (1024, 1024), (1280, 720))  # width, height
_NAME_BYTES = 16
_NUMBER_BITS = 32


@dataclass(frozen=True)
class InputImages:
    """Image files and their origin."""

    files: tuple[bytes, ...]
    origin: str  # in words

    def stream(self) -> Iterator[tuple[int, bytes]]:
        """Each image in turn, without end, with its index. Each time, the same image is in a new file.

        Decoders ignore the random bytes after the image's end.
        """
        for index in itertools.cycle(range(len(self.files))):
            yield index, self.files[index] + secrets.token_bytes(_NAME_BYTES)


def open_images(inputs: Sequence[str]) -> InputImages:
    """The first images of an input as `batch` takes it, else the samples of the checkout, else some drawn here.

    Raises:
        InputError: the input is not there, of no known format, or none of its first rows can be read.
    """
    if inputs:
        return _of_input(inputs)
    if samples := sample_images():
        return InputImages(tuple(path.read_bytes() for path in samples), f"the {len(samples)} sample images")
    return InputImages(tuple(_drawn(*size) for size in _DRAWN_SIZES), f"{len(_DRAWN_SIZES)} images drawn for this")


def varied(image: EncodedImage, number: int) -> EncodedImage:
    """The same tokens but for the lowest bits of a few values, so that no other prompt begins like this one.

    Args:
        number: 32 bits; different numbers give different tokens.
    """
    features = image.tokens.features
    data = bytearray(features.data)
    step = features.data_type.itemsize  # bytes of a value, the lowest first
    for bit in range(min(_NUMBER_BITS, len(data) // step)):
        data[bit * step] ^= number >> bit & 1
    return replace(image, tokens=replace(image.tokens, features=replace(features, data=bytes(data))))


def any_number() -> int:
    """A random number for `varied`."""
    return secrets.randbits(_NUMBER_BITS)


def _of_input(inputs: Sequence[str]) -> InputImages:
    try:
        from visionsplit_batch.sources import open_source
    except ImportError as error:
        raise UnavailableError(f"planning needs visionsplit[batch]: {error}") from None
    source = open_source(inputs)
    rows = list(source.read(list(itertools.islice(source.entries(), MOST_ROWS))))
    failures = [row for row in rows if isinstance(row, Failure)]
    files = tuple(file for row in rows if not isinstance(row, Failure) for file in row.images)
    if not files:
        why = f": {failures[0].message}" if failures else ""
        raise InputError(f"none of the first rows of {', '.join(inputs)} has an image that can be read{why}")
    origin = f"the first {len(files)} images of {inputs[0]}" if len(inputs) == 1 else f"{len(files)} images"
    return InputImages(files, origin)


def _drawn(width: int, height: int) -> bytes:
    """A photo-like JPEG: soft colours with some detail."""
    generator = np.random.default_rng([width, height])
    coarse = generator.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
