"""The memory and the disk tier together, as the pipeline uses them."""

import enum
import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType

from encoder_service.caching.disk import DiskTier
from encoder_service.caching.entry import CachedTokens
from encoder_service.caching.key import TokensKey, tokens_key
from encoder_service.caching.memory import MemoryTier
from encoder_service.compression import Composition
from encoder_service.config import CacheLimits
from encoder_service.device.encoding import EncodedTiles

_log = logging.getLogger(__name__)
_MAX_WAITING_WRITES = 32  # entries; bounds the memory they take if the disk is slower than the device
_MOST_LAST_PUTS = 1024  # keys; forgetting one costs at most one unnecessary look-up


class CacheUse(enum.Enum):
    """Where an image's tokens came from."""

    OFF = "off"  # the cache is disabled
    MISS = "miss"  # encoded, by this call or by an equal one that ran at the same time
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True)
class CacheCounts:
    """Counters since the start, and the cache's present size."""

    memory_hits: int
    disk_hits: int
    misses: int  # images encoded
    joined: int  # images that shared an encoding under way for an equal request
    memory_entries: int
    memory_bytes: int
    memory_evictions: int
    disk_entries: int
    disk_bytes: int
    disk_evictions: int
    disk_failures: int  # files that could not be read or written
    disk_skipped: int  # entries not written because too many writes were waiting


@dataclass(frozen=True)
class Hit:
    """An image whose tokens were found in the cache."""

    grid: TileGrid
    tiles: EncodedTiles  # all tiles of the image
    use: CacheUse


class TokenCache:
    """Caches images' tokens. `find` may run on any thread; the other methods belong to one event loop."""

    def __init__(self, limits: CacheLimits, *, encoder: str, device: torch.device) -> None:
        """
        Args:
            limits: the sizes of both tiers.
            encoder: `encoder_identity` of the vision half.
            device: the vision half's device.
        """
        self._encoder, self._device = encoder, device
        self._memory = MemoryTier(limits.memory_bytes)
        self._disk = _open(limits)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="encoder-cache-write")
        self._waiting_writes = threading.Semaphore(_MAX_WAITING_WRITES)
        self._last_puts: OrderedDict[str, object] = OrderedDict()  # a new stamp at each put; the oldest put comes first
        self._uses = dict.fromkeys(CacheUse, 0)
        self._joined = 0
        self._skipped = 0

    def close(self) -> None:
        """Wait until the writes under way have finished."""
        self._writer.shutdown(wait=True)

    def key(self, image_digest: str, composition: Composition, data_type: DataType, *, alone: bool = True) -> TokensKey:
        return tokens_key(image_digest, self._encoder, composition, data_type, alone=alone)

    def stamp(self, key: TokensKey) -> object:
        """Identify the latest put under a key.

        `find` runs on a thread, so an equal image may finish encoding during the look-up. A caller compares the stamps
        from before and after `find`: if they differ, a miss may be out of date and the look-up has to be repeated.
        """
        return self._last_puts.get(key.entry)

    def find(self, key: TokensKey, composition: Composition) -> Hit | None:
        """A request's tokens, bit-identical to encoding the image. May read the disk and wait for the device.

        Raises:
            InvalidCompressionError: the request's ratio keeps no token of the image.
        """
        entry = self._memory.get(key.entry)
        tiles = entry.restrict_to(composition, self._device) if entry is not None else None
        if entry is not None and tiles is not None:
            return Hit(entry.grid, tiles, CacheUse.MEMORY)
        entry = self._disk.get(key.entry) if self._disk is not None else None
        tiles = entry.restrict_to(composition, self._device) if entry is not None else None
        if entry is None or tiles is None:
            return None
        self._memory.put(key.entry, entry)
        return Hit(entry.grid, tiles, CacheUse.DISK)

    def put(self, key: TokensKey, entry: CachedTokens) -> None:
        """Cache an image's tokens; they are written to disk in the background."""
        self._last_puts[key.entry] = object()
        if len(self._last_puts) > _MOST_LAST_PUTS:
            self._last_puts.popitem(last=False)
        is_new = self._memory.put(key.entry, entry)
        if self._disk is None or not is_new:
            return
        if not self._waiting_writes.acquire(blocking=False):
            self._skipped += 1
            return
        self._writer.submit(self._write, self._disk, key.entry, entry)

    def count(self, use: CacheUse, *, joined: bool = False) -> None:
        """Count one image of a request."""
        if joined:
            self._joined += 1
        else:
            self._uses[use] += 1

    def counts(self) -> CacheCounts:
        disk = self._disk
        return CacheCounts(
            memory_hits=self._uses[CacheUse.MEMORY],
            disk_hits=self._uses[CacheUse.DISK],
            misses=self._uses[CacheUse.MISS],
            joined=self._joined,
            memory_entries=len(self._memory),
            memory_bytes=self._memory.num_bytes,
            memory_evictions=self._memory.evictions,
            disk_entries=len(disk) if disk is not None else 0,
            disk_bytes=disk.num_bytes if disk is not None else 0,
            disk_evictions=disk.evictions if disk is not None else 0,
            disk_failures=disk.failures if disk is not None else 0,
            disk_skipped=self._skipped,
        )

    def _write(self, disk: DiskTier, key: str, entry: CachedTokens) -> None:
        try:
            disk.put(key, entry)
        except Exception:  # on a background thread, so that no caller would receive the error
            _log.exception("cannot keep an image's tokens on disk")
        finally:
            self._waiting_writes.release()


def _open(limits: CacheLimits) -> DiskTier | None:
    """Open the disk tier; if its folder cannot be used, log a warning and go on without it."""
    if limits.folder is None:
        return None
    try:
        return DiskTier(limits.folder, limits.folder_bytes)
    except OSError as error:
        _log.warning("no cache on disk: %s cannot be used: %s", limits.folder, error)
        return None
