"""Reads secrets and certificates from files, and reads them again when they change."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from visionsplit.errors import VisionSplitError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# For each file its modification time, size and inode, or None if it does not exist.
_Signature: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class CredentialsError(VisionSplitError):
    """A certificate, key or token file that cannot be used, or security settings that contradict each other."""


def read_file(path: Path, what: str) -> bytes:
    """Read a file; `what` names its purpose in the error.

    Raises:
        CredentialsError: names the file and its purpose.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{what} {path} cannot be read: {error.strerror}") from None


class ReloadingFiles(Generic[_T]):
    """A value loaded from files, and loaded again when one of the files has changed. Thread-safe.

    If changed files cannot be used, the previous value stays in force and one warning is logged: files are often
    replaced one after another, and a typing error must not stop a service.

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
        """The value of the present files, or of the last ones that could be used."""
        with self._lock:
            signature = self._sign()
            if signature != self._signature:
                # The signature was taken before loading, so a file that changes during loading is loaded once more.
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
