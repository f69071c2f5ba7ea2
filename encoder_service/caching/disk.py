"""The most recently used cache entries in a folder, so that they outlive the process.

Each entry is a file `<key>.tokens`: the SHA-256 of the rest of the file, the length of a JSON header, the header, and a
safetensors file. A file is written under a temporary name in the same folder and then renamed, so that a reader finds
either the whole entry or none. The disk never fails a request: an unreadable file is a cache miss, an entry that cannot
be written is skipped, and the log reports both. Other files in the folder are left alone.
"""

import hashlib
import json
import logging
import os
import re
import struct
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.wire.tensors import TokenTensor

from encoder_service.caching.entry import CachedTokens

_log = logging.getLogger(__name__)
_SUFFIX, _UNFINISHED = ".tokens", ".part"
_NAME = re.compile(rf"[0-9a-f]{{64}}{re.escape(_SUFFIX)}")
_LENGTH = struct.Struct("<Q")
_DIGEST_BYTES = hashlib.sha256().digest_size
_UNFINISHED_SECONDS = 3600.0  # an unfinished file this old is taken to belong to a writer that has ended
_LOG_PERIOD_SECONDS = 60.0  # a full disk fails every image: the log gets one line a minute, not one an image


class DiskTier:
    """A least-recently-used cache of files, limited in bytes. Safe to use from several threads.

    Several encoders may share a folder. Each counts the files that it found when it started and those that it wrote
    since; a file that another encoder has removed is a cache miss.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """
        Raises:
            OSError: the folder cannot be created, read or written to.
        """
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.RLock()  # reentrant, since `_failed` may be called with the lock held
        self._sizes: OrderedDict[str, int] = OrderedDict()  # bytes of each key's file, least recently used first
        self.num_bytes = 0
        self.evictions = 0
        self.failures = 0  # files that could not be read or written
        self._logged = 0  # of these failures, how many the log has reported
        self._log_again = 0.0  # time.monotonic
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # the folder is writable
        self._find()

    def __len__(self) -> int:
        return len(self._sizes)

    def get(self, key: str) -> CachedTokens | None:
        """Read an entry; None if the folder has no intact file for the key."""
        with self._lock:
            if key not in self._sizes:
                return None
            self._sizes.move_to_end(key)
        path = self._path(key)
        try:
            content = path.read_bytes()
            entry = _from_bytes(key, content)
            os.utime(path)  # keeps the order of use across restarts, which `_find` reads from the modification times
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                self._failed(f"cannot use {path.name}: {error}")
            self._forget(key)
            if not isinstance(error, OSError):
                self._remove(path)
            return None
        return entry

    def put(self, key: str, entry: CachedTokens) -> None:
        """Store an entry, replacing the present one of the same key."""
        content = _to_bytes(key, entry)
        if len(content) > self._max_bytes:
            return
        with self._lock:
            if key in self._sizes:
                # The new file replaces the old one, so making room must not evict the same key.
                self._sizes.move_to_end(key)
            self._make_room(len(content) - self._sizes.get(key, 0))
        try:
            self._write(self._path(key), content)
        except OSError as error:
            self._failed(f"cannot keep an image's tokens: {error}")
            return
        with self._lock:
            self.num_bytes += len(content) - self._sizes.pop(key, 0)
            self._sizes[key] = len(content)
            self._make_room(0)  # a concurrent reader may have dropped the old file's size from the total meanwhile

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _find(self) -> None:
        """Index the files already in the folder, and remove unfinished files that a killed process left.

        Another encoder may be writing to the folder at this moment, so only old unfinished files are removed.
        """
        abandoned = time.time() - _UNFINISHED_SECONDS
        found: list[tuple[float, str, int]] = []
        for path in self._folder.iterdir():
            try:
                status = path.stat()
            except OSError:
                continue  # another encoder has removed it since the listing
            if path.name.endswith(_UNFINISHED) and _NAME.match(path.name):
                if status.st_mtime < abandoned:
                    self._remove(path)
            elif _NAME.fullmatch(path.name) and path.is_file():
                found.append((status.st_mtime, path.name.removesuffix(_SUFFIX), status.st_size))
        for _, key, size in sorted(found):
            self._sizes[key] = size
            self.num_bytes += size
        with self._lock:
            self._make_room(0)

    def _make_room(self, more: int) -> None:
        while self._sizes and self.num_bytes + more > self._max_bytes:
            key, size = self._sizes.popitem(last=False)
            self.num_bytes -= size
            self.evictions += 1
            self._remove(self._path(key))

    def _write(self, path: Path, content: bytes) -> None:
        handle, name = tempfile.mkstemp(prefix=path.name, suffix=_UNFINISHED, dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError:
            self._remove(Path(name))
            raise

    def _forget(self, key: str) -> None:
        with self._lock:
            self.num_bytes -= self._sizes.pop(key, 0)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._failed(f"cannot remove {path.name}: {error}")

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures += 1
            now, failures = time.monotonic(), self.failures
            if now < self._log_again:
                return
            since, self._logged, self._log_again = failures - self._logged - 1, failures, now + _LOG_PERIOD_SECONDS
        more = f"; {since} more failures since the last line" if since else ""
        _log.warning("cache in %s: %s%s", self._folder, what, more)


def _to_bytes(key: str, entry: CachedTokens) -> bytes:
    tensors = {"data": np.frombuffer(entry.features.data, np.uint8), "positions": entry.positions.astype("<i4")}
    if entry.features.scales:
        tensors["scales"] = np.frombuffer(entry.features.scales, np.uint8)
    if entry.evidence is not None:
        tensors["evidence"] = entry.evidence
    if entry.ranks is not None:
        tensors["ranks"] = entry.ranks
    facts = {
        "key": key,
        "grid": asdict(entry.grid),
        "budgets": entry.budgets,
        "quotas": entry.quotas,
        "tensor": [entry.features.data_type.name, entry.features.rows, entry.features.columns],
    }
    described = json.dumps(facts).encode()
    body: bytes = _LENGTH.pack(len(described)) + described + save(tensors)
    return hashlib.sha256(body).digest() + body


def _from_bytes(key: str, content: bytes) -> CachedTokens:
    """
    Raises:
        ValueError: the content is not an intact entry of this key.
    """
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the checksum does not match; the file is truncated or damaged")
    try:
        (length,) = _LENGTH.unpack_from(body)
        facts = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        tensors = load(body[_LENGTH.size + length :])
        data_type, rows, columns = facts["tensor"]
        scales = tensors["scales"].tobytes() if "scales" in tensors else b""
        entry = CachedTokens(
            TileGrid.of_values(facts["grid"]),
            tuple(facts["budgets"]),
            None if facts["quotas"] is None else tuple(facts["quotas"]),
            TokenTensor(DataType[data_type], rows, columns, tensors["data"].tobytes(), scales),
            tensors["positions"],
            tensors.get("evidence"),
            tensors.get("ranks"),
        )
    except (struct.error, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(f"the file is not an entry of this cache ({error})") from error
    if facts["key"] != key:
        raise ValueError("the file belongs to another image")
    return entry
