"""`python -m visionsplit.images`: decodes one image for `process_decoder.ProcessDecoder`.

The program reads the file from standard input, and writes a line of JSON followed by the pixels as RGB.
"""

import json
import os
import resource
import sys
from typing import BinaryIO

from visionsplit.errors import InvalidImageError
from visionsplit.images.process_decoder import MOST_CPU_SECONDS, OUT_OF_MEMORY
from visionsplit.images.reading import decode_image
from visionsplit.images.size_limits import ImageLimits

_OWN_BYTES = 1 << 31  # address space for Python and its libraries
_NICENESS = 10  # lowers the priority, so that other callers' work comes first
_ROWS = 256  # rows of pixels written at a time


def main(asked: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """`asked` is JSON written by `ProcessDecoder`: the limits and the memory for decoding."""
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
    """Limit a resource of the process. A lower limit set by an administrator stays, since it cannot be raised."""
    _, hard = resource.getrlimit(kind)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
