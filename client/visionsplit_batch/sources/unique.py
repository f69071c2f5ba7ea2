"""Checks that ids are unique while entries are listed, for any number of entries."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Entry

_ENTRIES_AT_ONCE = 1024
_CACHE_KIB = 16_384  # of the index in memory; the rest is in a temporary file, about 40 bytes per entry


def unique(entries: Callable[[], Iterable[Entry]], describe: Callable[[Entry], str]) -> Iterator[Entry]:
    """Yield the entries in their order, a block at a time.

    Args:
        entries: creates the listing, a second time if necessary: the first of two equal ids is found by its number.
        describe: an entry's location, in words.

    Raises:
        InputError: an id appears twice. The error names the id and both locations.
    """
    listing = iter(entries())
    # "" is a temporary database of this connection, which moves from memory to a temporary file as it grows.
    with contextlib.closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as seen:
        seen.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        seen.execute("PRAGMA journal_mode = OFF")
        seen.execute("CREATE TABLE ids (digest BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        seen.execute("BEGIN")
        start = 0
        while block := list(islice(listing, _ENTRIES_AT_ONCE)):
            digests = [(_digest(entry), start + index) for index, entry in enumerate(block)]
            inserted = seen.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?)", digests).rowcount
            if inserted < len(block):
                raise _twice(seen, digests, block, start, entries, describe)
            yield from block
            start += len(block)


def _digest(entry: Entry) -> bytes:
    return hashlib.blake2b(entry.id.encode(), digest_size=16).digest()


def _twice(
    seen: sqlite3.Connection,
    digests: list[tuple[bytes, int]],
    block: list[Entry],
    start: int,
    entries: Callable[[], Iterable[Entry]],
    describe: Callable[[Entry], str],
) -> InputError:
    for digest, number in digests:
        (first,) = seen.execute("SELECT number FROM ids WHERE digest = ?", (digest,)).fetchone()
        if first != number:
            entry = block[number - start]
            earlier = block[first - start] if first >= start else next(islice(iter(entries()), first, None))
            return InputError(f"the id {entry.id!r} comes twice: {describe(earlier)} and {describe(entry)}")
    raise AssertionError("an id of this block is in the index with another entry's number")
