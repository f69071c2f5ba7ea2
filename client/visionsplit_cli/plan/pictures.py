"""Pictures and tokens to measure with: never the same twice, or a cache would answer."""

import io
import itertools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import visionsplit_client
from PIL import Image
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows import Failure
from visionsplit_batch.sources import open_source
from visionsplit_client import EncodedImage

MOST_ROWS = 16  # of the input: every picture is encoded at every ratio
_DRAWN_SIZES = ((1024, 768), (768, 1024), (1024, 1024), (1280, 720))  # width, height
_NAME_BYTES = 16
_NUMBER_BITS = 32


@dataclass(frozen=True)
class Pictures:
    """Files of pictures, and where they are from."""

    files: tuple[bytes, ...]
    origin: str  # in words

    def stream(self) -> Iterator[tuple[int, bytes]]:
        """Each picture in turn, without end, with its index: the same picture in a file that never was before.

        Decoders ignore what comes behind the picture's end.
        """
        for index in itertools.cycle(range(len(self.files))):
            yield index, self.files[index] + secrets.token_bytes(_NAME_BYTES)


def open_pictures(inputs: Sequence[str]) -> Pictures:
    """The first pictures of an input as `batch` takes it, else the samples of the checkout, else some drawn here.

    Raises:
        InputError: the input is not there, of no known format, or none of its first rows can be read.
    """
    if inputs:
        return _of_input(inputs)
    folder = Path(visionsplit_client.__file__).parents[2] / "models" / "samples"
    samples = sorted(folder.glob("*.png"))
    if samples:
        return Pictures(tuple(path.read_bytes() for path in samples), f"the {len(samples)} sample images")
    return Pictures(tuple(_drawn(*size) for size in _DRAWN_SIZES), f"{len(_DRAWN_SIZES)} pictures drawn for this")


def varied(image: EncodedImage, number: int) -> EncodedImage:
    """The same tokens but for the lowest bits of a few values, so that no other prompt begins like this one.

    Args:
        number: of 32 bits; each gives other tokens.
    """
    features = image.tokens.features
    data = bytearray(features.data)
    step = features.data_type.itemsize  # bytes of a value, the lowest first
    for bit in range(min(_NUMBER_BITS, len(data) // step)):
        data[bit * step] ^= number >> bit & 1
    return replace(image, tokens=replace(image.tokens, features=replace(features, data=bytes(data))))


def any_number() -> int:
    """For `varied`."""
    return secrets.randbits(_NUMBER_BITS)


def _of_input(inputs: Sequence[str]) -> Pictures:
    source = open_source(inputs)
    rows = list(source.read(list(itertools.islice(source.entries(), MOST_ROWS))))
    failures = [row for row in rows if isinstance(row, Failure)]
    files = tuple(file for row in rows if not isinstance(row, Failure) for file in row.images)
    if not files:
        why = f": {failures[0].message}" if failures else ""
        raise InputError(f"none of the first rows of {', '.join(inputs)} has a picture that can be read{why}")
    origin = f"the first {len(files)} pictures of {inputs[0]}" if len(inputs) == 1 else f"{len(files)} pictures"
    return Pictures(files, origin)


def _drawn(width: int, height: int) -> bytes:
    """A photo-like JPEG: soft colours with some detail."""
    generator = np.random.default_rng([width, height])
    coarse = generator.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
