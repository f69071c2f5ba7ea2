"""`python -m visionsplit.images`: decodes one image for `apart.ApartDecoder`.

The file comes in at the standard input. A line of JSON goes out, and then the pixels as RGB.
"""

import json
import os
import resource
import sys
from typing import BinaryIO

from visionsplit.errors import InvalidImageError
from visionsplit.images.apart import MOST_CPU_SECONDS, OUT_OF_MEMORY
from visionsplit.images.header import ImageLimits
from visionsplit.images.reading import decode_image

_OWN_BYTES = 1 << 31  # of address space, for Python and its libraries
_NICENESS = 10  # other callers' work comes first
_ROWS = 256  # of pixels that are sent at a time


def main(asked: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """`asked`: the limits and the memory for decoding, as `ApartDecoder` writes them."""
    settings = json.loads(asked)
    _limit(resource.RLIMIT_CPU, MOST_CPU_SECONDS)
    _limit(resource.RLIMIT_AS, _OWN_BYTES + settings["bytes"])
    os.nice(_NICENESS)
    try:
        image = decode_image(questions.read(), ImageLimits(**settings["limits"]))
    except InvalidImageError as error:
        answers.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    answers.write(json.dumps({"size": image.size}).encode() + b"\n")
    for top in range(0, image.height, _ROWS):
        answers.write(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())


def _limit(kind: int, wanted: int) -> None:
    """Set a limit of the process, which an administrator may have set lower: that one cannot be raised."""
    _, hard = resource.getrlimit(kind)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
