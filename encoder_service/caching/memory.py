"""The most recently used cache entries, in memory."""

import threading
from collections import OrderedDict

from encoder_service.caching.entry import CachedTokens


class MemoryTier:
    """A least-recently-used cache, limited in bytes. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, CachedTokens] = OrderedDict()  # least recently used first
        self.num_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> CachedTokens | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: str, entry: CachedTokens) -> bool:
        """Store an entry unless the present one covers it; return whether the entry is new.

        An entry larger than the whole tier is not stored, and nothing is evicted for it.
        """
        with self._lock:
            present = self._entries.get(key)
            if present is not None and present.covers(entry):
                self._entries.move_to_end(key)
                return False
            if entry.num_bytes > self._max_bytes:
                return True
            if present is not None:
                self.num_bytes -= self._entries.pop(key).num_bytes
            self._entries[key] = entry
            self.num_bytes += entry.num_bytes
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= self._entries.popitem(last=False)[1].num_bytes
                self.evictions += 1
            return True
