"""Both tiers, as the pipeline sees them."""

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
_MAX_WAITING_WRITES = 32  # entries; a disk that is slower than the device must not fill the memory
_MOST_LAST_PUTS = 1024  # keys; one that is gone costs a look-up more


class CacheUse(enum.Enum):
    """Where an image's tokens came from."""

    OFF = "off"  # no tokens are kept
    MISS = "miss"  # encoded, by this call or by an equal one that ran at the same time
    MEMORY = "memory"
    DISK = "disk"


@dataclass(frozen=True)
class CacheCounts:
    """What the cache has done since the start, and what it holds."""

    memory_hits: int
    disk_hits: int
    misses: int  # images that were encoded
    joined: int  # images whose encoding was under way for an equal request
    memory_entries: int
    memory_bytes: int
    memory_evictions: int
    disk_entries: int
    disk_bytes: int
    disk_evictions: int
    disk_failures: int  # files that could not be read or written
    disk_skipped: int  # entries not written, since too many waited for the disk


@dataclass(frozen=True)
class Hit:
    """An image whose tokens were there."""

    grid: TileGrid
    tiles: EncodedTiles  # all of them
    use: CacheUse


class TokenCache:
    """Keeps images' tokens. `find` is for any thread; the rest for one event loop."""

    def __init__(self, limits: CacheLimits, *, encoder: str, device: torch.device) -> None:
        """
        Args:
            limits: how many.
            encoder: what `encoder_identity` says of the vision tower.
            device: that of the vision tower.
        """
        self._encoder, self._device = encoder, device
        self._memory = MemoryTier(limits.memory_bytes)
        self._disk = _open(limits)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="encoder-cache-write")
        self._waiting_writes = threading.Semaphore(_MAX_WAITING_WRITES)
        self._last_puts: OrderedDict[str, object] = OrderedDict()  # a mark for each key, those put first going first
        self._uses = dict.fromkeys(CacheUse, 0)
        self._joined = 0
        self._skipped = 0

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.shutdown(wait=True)

    def key(self, image_digest: str, composition: Composition, data_type: DataType) -> TokensKey:
        return tokens_key(image_digest, self._encoder, composition, data_type)

    def stamp(self, key: TokensKey) -> object:
        """When tokens were last put under a key: as long as it is the same, looking again finds the same."""
        return self._last_puts.get(key.entry)

    def find(self, key: TokensKey, composition: Composition) -> Hit | None:
        """A request's tokens, to the bit what encoding would give. May read the disk and wait for the device.

        Raises:
            InvalidCompressionError: the request's ratio keeps no token of the image.
        """
        entry = self._memory.get(key.entry)
        tiles = entry.answer(composition, self._device) if entry is not None else None
        if entry is not None and tiles is not None:
            return Hit(entry.grid, tiles, CacheUse.MEMORY)
        entry = self._disk.get(key.entry) if self._disk is not None else None
        tiles = entry.answer(composition, self._device) if entry is not None else None
        if entry is None or tiles is None:
            return None
        self._memory.put(key.entry, entry)
        return Hit(entry.grid, tiles, CacheUse.DISK)

    def put(self, key: TokensKey, entry: CachedTokens) -> None:
        """Keep an image's tokens; they reach the disk in the background."""
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
        """Take note of one image of a request."""
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
        except Exception:  # of a background thread, where nobody else would learn of it
            _log.exception("cannot keep an image's tokens on disk")
        finally:
            self._waiting_writes.release()


def _open(limits: CacheLimits) -> DiskTier | None:
    """The disk's tier, or none where its folder cannot be used: the service goes on without."""
    if limits.folder is None:
        return None
    try:
        return DiskTier(limits.folder, limits.folder_bytes)
    except OSError as error:
        _log.warning("no cache on disk: %s cannot be used: %s", limits.folder, error)
        return None
