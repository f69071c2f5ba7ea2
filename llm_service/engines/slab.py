"""Virtual token ids: how vision tokens enter an engine that takes token ids.

Ids below the vocabulary size are text. An id at or above it stands for one row of a slab of embeddings. Ids are handed
out in ascending order and never twice, since the engine shares cached keys and values between prompts with equal ids:
a reused id would answer about another image. Rows are reused: row = (id - vocabulary size) % rows.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn


class VirtualEmbedding(nn.Module):
    """An embedding that finds text ids in its table and virtual ids in the slab."""

    slab: torch.Tensor  # [rows, Dl]

    def __init__(self, table: nn.Embedding, *, rows: int) -> None:
        super().__init__()
        self.table = table
        self.vocabulary_size = table.num_embeddings
        self.register_buffer("slab", torch.zeros_like(table.weight[:1]).repeat(rows, 1), persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids without waiting for the device.

        Args:
            ids: integers of any shape.

        Returns:
            [*ids, Dl].
        """
        virtual = ids >= self.vocabulary_size
        text = self.table(ids.masked_fill(virtual, 0))  # [*ids, Dl]
        rows = (ids - self.vocabulary_size).clamp(min=0) % len(self.slab)
        return torch.where(virtual[..., None], self.slab[rows], text)

    @torch.no_grad()
    def write(self, first_id: int, embeddings: torch.Tensor) -> None:
        """Put [tokens, Dl] under consecutive ids. No request that runs may use their rows."""
        start = (first_id - self.vocabulary_size) % len(self.slab)
        head = min(len(embeddings), len(self.slab) - start)
        self.slab[start : start + head] = embeddings[:head]
        self.slab[: len(embeddings) - head] = embeddings[head:]


class IdsExhaustedError(Exception):
    """No ids are left: nothing may use virtual ids or remember them when `SlabAllocator.restart` is called."""


@dataclass
class Run:
    """Consecutive virtual ids of one image."""

    key: bytes
    first_id: int
    length: int
    users: int = 0

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + self.length)


class SlabAllocator:
    """Hands out runs of ids. Images in use keep their rows; others keep them until the ring comes round."""

    def __init__(self, *, first_id: int, rows: int, max_id: int) -> None:
        """Ids go from `first_id` to `max_id`, both included, and map to `rows` rows."""
        self._first_id = first_id
        self._rows = rows
        self._max_id = max_id
        self._next_id = first_id
        self._runs: OrderedDict[bytes, Run] = OrderedDict()  # by content, oldest ids first

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def in_use(self) -> bool:
        return any(run.users for run in self._runs.values())

    def find(self, key: bytes) -> Run | None:
        """The run of known content, with one more user."""
        run = self._runs.get(key)
        if run is not None:
            run.users += 1
        return run

    def allocate(self, key: bytes, length: int) -> Run | None:
        """A new run with one user; None while running requests leave no room.

        Raises:
            IdsExhaustedError: see there.
            ValueError: the slab is too small whatever runs.
        """
        if length > self._rows:
            raise ValueError(f"{length} rows of {self._rows}")
        first_id = self._free_start(length)
        if first_id is None:
            return None
        if first_id + length - 1 > self._max_id:
            raise IdsExhaustedError
        run = Run(key, first_id, length, users=1)
        for other in [other for other in self._runs.values() if self._overlap(first_id, length, other)]:
            del self._runs[other.key]
        self._runs[key] = run
        self._next_id = first_id + length
        return run

    def release(self, run: Run) -> None:
        """One user less. The content stays findable until its rows are needed."""
        run.users -= 1

    def discard(self, run: Run) -> None:
        """Forget a run whose rows were never filled."""
        run.users = 0
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def restart(self) -> None:
        """Begin again with the first id."""
        self._runs.clear()
        self._next_id = self._first_id

    def _free_start(self, length: int) -> int | None:
        """The next id from which `length` rows are free of images in use; None if one turn of the ring finds none."""
        start = self._next_id
        while start < self._next_id + self._rows:
            blocking = [run for run in self._runs.values() if run.users and self._overlap(start, length, run)]
            if not blocking:
                return start
            start += max(self._rows_until_end(start, run) for run in blocking)
        return None

    def _overlap(self, first_id: int, length: int, run: Run) -> bool:
        ahead = (run.first_id - first_id) % self._rows
        return ahead < length or ahead + run.length > self._rows

    def _rows_until_end(self, start: int, run: Run) -> int:
        """Rows from `start` on up to the run's last one; the run may begin before `start`."""
        return (run.first_id + run.length - start - 1) % self._rows + 1
