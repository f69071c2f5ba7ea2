"""Virtual token ids: how vision tokens enter an engine that takes token ids.

Ids below the vocabulary size are text. An id at or above it stands for one row of a slab of embeddings. Ids are handed
out in ascending order and never twice, since the engine shares cached keys and values between prompts with equal ids:
a reused id would answer about another image. Rows are reused: row = (id - vocabulary size) % rows.
"""

from collections import OrderedDict
from collections.abc import Sequence
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
    filled: bool = False  # whether the embeddings are there; set by who wrote them

    @property
    def ids(self) -> range:
        return range(self.first_id, self.first_id + self.length)


class SlabAllocator:
    """Hands out runs of ids. Images in use keep their rows; others keep them until the ring comes round."""

    def __init__(self, *, first_id: int, rows: int, max_id: int) -> None:
        """Ids go from `first_id` to `max_id`, both included, and map to `rows` rows; there are as many ids at least."""
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
        """Rows of images in use."""
        return sum(run.length for run in self._runs.values() if run.users)

    @property
    def in_use(self) -> bool:
        return any(run.users for run in self._runs.values())

    def place(self, images: Sequence[tuple[bytes, int]]) -> list[Run] | None:
        """Runs for all images of a request, each with one more user; None, and nothing taken, while there is no room.

        A request that waits holds no rows, so nobody waits for rows that the waiting hold. With nothing in use, images
        that fit the slab are always placed.

        Args:
            images: content key and number of rows of each image; content may come twice.

        Raises:
            IdsExhaustedError: see there; nothing is taken.
            ValueError: the slab is too small whatever runs.
        """
        needed = sum(dict(images).values())
        if needed > self._rows:
            raise ValueError(f"{needed} rows of {self._rows}")
        runs = self._place_or_undo(images)
        if runs is None and not self.in_use:
            # Known content, kept where it is, cuts the ring into gaps that are too small: without it there is one gap.
            self._runs.clear()
            runs = self._place_or_undo(images)
        return runs

    def release(self, run: Run) -> None:
        """One user less. Content that was filled in stays findable until its rows are needed."""
        run.users -= 1
        if not run.users and not run.filled and self._runs.get(run.key) is run:
            del self._runs[run.key]

    def restart(self) -> None:
        """Begin again with the first id."""
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
        """A new run, forgetting the unused content in its way; None while content in use leaves no room."""
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
