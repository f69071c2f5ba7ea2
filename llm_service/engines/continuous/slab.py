"""Virtual token ids: how vision tokens enter an engine that accepts only token ids.

Ids below the vocabulary size are text. Each id at or above it stands for one row of a slab of embeddings. Ids are
assigned in ascending order and never twice, since the engine shares cached keys and values between prompts with equal
ids: with a reused id it would answer about another image. Rows are reused: row = (id - vocabulary size) % rows.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


class VirtualEmbedding(nn.Module):
    """An embedding that looks up text ids in its table and virtual ids in the slab."""

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
        """Embed ids without synchronising with the device.

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
        """Store embeddings [tokens, Dl] under consecutive ids. No running request may use their rows."""
        start = (first_id - self.vocabulary_size) % len(self.slab)
        head = min(len(embeddings), len(self.slab) - start)
        self.slab[start : start + head] = embeddings[:head]
        self.slab[: len(embeddings) - head] = embeddings[head:]


class IdsExhaustedError(Exception):
    """All virtual ids are used up; `SlabAllocator.restart` may be called once nothing uses or has cached any id."""


@dataclass
class Run:
    """Consecutive virtual ids, which hold one image."""

    key: bytes
    first_id: int
    length: int
    users: int = 0
    filled: bool = False  # whether the embeddings have been written; set by the writer

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + self.length)


class SlabAllocator:
    """Assigns runs of ids. Images in use keep their rows; the rows of others are kept until the ring reaches them."""

    def __init__(self, *, first_id: int, rows: int, max_id: int) -> None:
        """Ids from `first_id` to `max_id`, both included, map to `rows` rows; there must be at least as many ids."""
        if max_id - first_id + 1 < rows:
            raise ValueError(f"{rows} rows have only the {max_id - first_id + 1} ids from {first_id} to {max_id}")
        self._first_id = first_id
        self._rows = rows
        self._max_id = max_id
        self._next_id = first_id
        self._runs: OrderedDict[bytes, Run] = OrderedDict()  # by content, oldest ids first

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def rows_in_use(self) -> int:
        """Rows held by images in use."""
        return sum(run.length for run in self._runs.values() if run.users)

    @property
    def in_use(self) -> bool:
        return any(run.users for run in self._runs.values())

    def place(self, images: Sequence[tuple[bytes, int]]) -> list[Run] | None:
        """Runs for all images of a request, each with one more user; None, with nothing taken, while there is no room.

        A request that waits holds no rows, so no request waits for rows that a waiting request holds. If nothing is in
        use, images that fit the slab are always placed.

        Args:
            images: content key and number of rows of each image; the same content may appear twice.

        Raises:
            IdsExhaustedError: the ids are used up; nothing is taken.
            ValueError: the slab is too small whatever runs.
        """
        needed = sum(dict(images).values())
        if needed > self._rows:
            raise ValueError(f"{needed} rows of {self._rows}")
        runs = self._place_or_undo(images)
        if runs is None and not self.in_use:
            # Requested images that are cached stay where they are, and may leave no gap that is large enough for the
            # others. Without cached images the whole ring is one gap.
            self._runs.clear()
            runs = self._place_or_undo(images)
        return runs

    def release(self, run: Run) -> None:
        """Remove one user. Written content can be found again until its rows are needed."""
        run.users -= 1
        if not run.users and not run.filled and self._runs.get(run.key) is run:
            del self._runs[run.key]

    def restart(self) -> None:
        """Restart numbering at the first id."""
        self._runs.clear()
        self._next_id = self._first_id

    def _place_or_undo(self, images: Sequence[tuple[bytes, int]]) -> list[Run] | None:
        runs_before, next_id_before = self._runs.copy(), self._next_id
        taken: list[Run] = []
        try:
            for key, length in images:
                run = self._runs.get(key) or self._allocate(key, length)
                if run is None:
                    break
                run.users += 1
                taken.append(run)
            else:
                return taken
        except IdsExhaustedError:
            self._undo(taken, runs_before, next_id_before)
            raise
        self._undo(taken, runs_before, next_id_before)
        return None

    def _undo(self, taken: list[Run], runs: OrderedDict[bytes, Run], next_id: int) -> None:
        for run in taken:
            run.users -= 1
        self._runs, self._next_id = runs, next_id

    def _allocate(self, key: bytes, length: int) -> Run | None:
        """Create a run and evict unused images from its rows; None if images in use leave no room."""
        first_id = self._free_start(length)
        if first_id is None:
            return None
        if first_id + length - 1 > self._max_id:
            raise IdsExhaustedError
        for other in [other for other in self._runs.values() if self._overlap(first_id, length, other)]:
            del self._runs[other.key]
        run = self._runs[key] = Run(key, first_id, length)
        self._next_id = first_id + length
        return run

    def _free_start(self, length: int) -> int | None:
        """The next id from which `length` rows are free of images in use; None if a full turn of the ring has none."""
        start = self._next_id
        while start < self._next_id + self._rows:
            blocking = [run for run in self._runs.values() if run.users and self._overlap(start, length, run)]
            if not blocking:
                return start
            start += max(self._rows_until_end(start, run) for run in blocking)
        return None

    def _overlap(self, first_id: int, length: int, run: Run) -> bool:
        # Modulo the ring: how far the run begins after `first_id`. It overlaps if it begins within `length` rows, or if
        # it begins further on and wraps around past `first_id`.
        ahead = (run.first_id - first_id) % self._rows
        return ahead < length or ahead + run.length > self._rows

    def _rows_until_end(self, start: int, run: Run) -> int:
        """Rows from `start` to the run's last row, inclusive; the run may begin before `start`."""
        return (run.first_id + run.length - start - 1) % self._rows + 1
