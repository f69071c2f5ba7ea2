"""Images decoded in another process, which is started for each.

Some decoders hold the interpreter's lock for seconds: Pillow's for JPEG 2000, and those that it has in Python. In
another process they stop nobody here. The process gives back all of its memory at its end, and the system ends it if it
takes more time or memory than it may.
"""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict

import numpy as np
from PIL import Image

from visionsplit.errors import CancelledError, InternalError, InvalidImageError, OverloadedError
from visionsplit.images.header import ImageLimits

MOST_CPU_SECONDS = 20  # a JPEG 2000 image of 50 million pixels takes half of it
OUT_OF_MEMORY = 3  # exit status of the process
_MOST_SECONDS = 60.0  # that pass: a machine that gives the process a third of a core
_MODULE = "visionsplit.images"
_TOO_MUCH = {-signal.SIGKILL, -signal.SIGXCPU, OUT_OF_MEMORY}  # exit statuses; the system also kills for memory
_EXHAUSTED = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # processes, files or memory, for now
_RETRY_SECONDS = 5.0
_LOGGED_CHARACTERS = 2000

_log = logging.getLogger(__name__)


class ApartDecoder:
    """Decodes one image in another process. One thread waits for it, and any thread may stop it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the process, or end it as soon as it starts. `decode` then raises CancelledError."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def decode(self, data: bytes, limits: ImageLimits, decoding_bytes: int) -> Image.Image:
        """`decode_image` in another process; the thread that waits for it holds no lock.

        Args:
            data: the file.
            limits: what is decoded at all.
            decoding_bytes: of `read_header`.

        Raises:
            InvalidImageError: as `decode_image`, or decoding takes too much time or memory.
            OverloadedError: the system has no process for it, or not enough time on its processors.
            CancelledError: it was stopped.
            InternalError: the process failed; the log says how.
        """
        with _start(json.dumps({"limits": asdict(limits), "bytes": decoding_bytes})) as process:
            try:
                with self._lock:
                    self._process = process
                    stopped = self._stopped
                if not stopped:
                    answer, complaints = process.communicate(data, _MOST_SECONDS)
            except subprocess.TimeoutExpired:
                raise OverloadedError(
                    f"decoding the image takes more than {_MOST_SECONDS:.0f} seconds; the encoder's machine is busy",
                    _RETRY_SECONDS,
                ) from None
            finally:
                process.kill()
        if self._stopped:
            raise CancelledError("the image is not wanted any more")
        _check_end(process.returncode, complaints)
        return _image(answer)


def _start(asked: str) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            [sys.executable, "-m", _MODULE, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # NumPy's library for matrices would reserve address space for a thread of each core.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        raise OverloadedError(
            f"the encoder cannot start a process to decode the image ({error.strerror})", _RETRY_SECONDS
        ) from error


def _check_end(status: int, complaints: bytes) -> None:
    if status in _TOO_MUCH:
        raise InvalidImageError(f"decoding the image takes more than {MOST_CPU_SECONDS} seconds or too much memory")
    if status:
        said = complaints.decode(errors="replace")[-_LOGGED_CHARACTERS:]
        _log.error("the process that decodes an image ended with status %d: %s", status, said)
        raise InternalError("the process that decodes the image failed")


def _image(answer: bytes) -> Image.Image:
    """From a line of JSON and the pixels behind it. These are not copied but into the image."""
    begin = answer.index(b"\n") + 1
    said = json.loads(answer[:begin])
    if "error" in said:
        raise InvalidImageError(said["error"])
    width, height = said["size"]
    return Image.fromarray(np.frombuffer(answer, np.uint8, offset=begin).reshape(height, width, 3))
