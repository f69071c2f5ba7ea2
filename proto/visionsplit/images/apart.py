"""Images decoded in another process, which is started for each.

Some decoders hold the interpreter's lock for seconds: Pillow's for JPEG 2000, and those that it has in Python. In
another process they stop nobody here. The process gives back all of its memory at its end, and the system ends it if it
takes more time or memory than it may.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict

from PIL import Image

from visionsplit.errors import InvalidImageError
from visionsplit.images.header import ImageLimits

MOST_SECONDS = 20  # of processor time; a JPEG 2000 image of 50 million pixels takes half of it
_MODULE = "visionsplit.images"
_RGB_BYTES = 3


def decode_apart(data: bytes, limits: ImageLimits, decoding_bytes: int) -> Image.Image:
    """`decode_image` in another process; the thread that waits for it holds no lock.

    Args:
        decoding_bytes: of `read_header`.

    Raises:
        InvalidImageError: as `decode_image`, or decoding took too much time or memory.
    """
    asked = json.dumps({"limits": asdict(limits), "bytes": decoding_bytes})
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # NumPy's library for matrices would reserve address space for a thread of each core.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        return _talk(process, data)
    finally:
        process.kill()
        process.wait()


def _talk(process: "subprocess.Popen[bytes]", data: bytes) -> Image.Image:
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout as answers, process.stdin as questions:
        try:
            questions.write(data)
            questions.close()
        except BrokenPipeError:
            pass  # it has ended; there is no answer either
        answer = json.loads(answers.readline() or "null")
        if answer is None:
            raise InvalidImageError(f"decoding the image takes more than {MOST_SECONDS} seconds or too much memory")
        if "error" in answer:
            raise InvalidImageError(answer["error"])
        width, height = answer["size"]
        pixels = answers.read(_RGB_BYTES * width * height)
    if len(pixels) < _RGB_BYTES * width * height:
        raise InvalidImageError("the image cannot be decoded; its decoder ended early")
    return Image.frombytes("RGB", (width, height), pixels)
