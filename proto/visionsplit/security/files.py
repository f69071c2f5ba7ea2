"""Secrets and certificates lie in files, which are read again when they change."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from visionsplit.errors import VisionSplitError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# Of each file: when it was written, its length and its number, or None while it is not there.
_Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class CredentialsError(VisionSplitError):
    """A certificate, key or token file that cannot be used, or settings of security that contradict each other."""


def read_file(path: Path, what: str) -> bytes:
    """
    Raises:
        CredentialsError: names the file and what it should have held.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{what} {path} cannot be read: {error.strerror}") from None


class Watched(Generic[_T]):
    """What files hold, read again when one of them has changed. Thread-safe.

    A change that cannot be used leaves in force what was there before and is logged once: files are often replaced one
    after the other, and a slip of the pen must not take a service down.

    Raises:
        CredentialsError: the files cannot be used at the start.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], _T]) -> None:
        self._paths = tuple(paths)
        self._load = load
        self._lock = threading.Lock()
        self._signature = self._sign()
        self._value = load()

    def get(self) -> _T:
        """What the files hold now, or held when they last made sense."""
        with self._lock:
            signature = self._sign()
            if signature != self._signature:
                # The signature of before the reading: a file that changes meanwhile is read once more.
                self._signature = signature
                try:
                    self._value = self._load()
                    _log.info("read again: %s", ", ".join(map(str, self._paths)))
                except CredentialsError as error:
                    _log.warning("%s; what was read before stays in force", error)
            return self._value

    def _sign(self) -> _Signature:
        return tuple(_signature_of(path) for path in self._paths)


def _signature_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
