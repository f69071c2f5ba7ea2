"""Collects outcomes, which arrive in any order, into parts, each of which is written as a whole."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic

from visionsplit_batch.job.parts import Part
from visionsplit_batch.job.saved_progress import RunFolder
from visionsplit_batch.rows.part_state import FailedRow, PartState
from visionsplit_batch.rows.rows import Failure, Outcome
from visionsplit_batch.sinks import Item, Sink

_log = logging.getLogger(__name__)


@dataclass
class _OpenPart(Generic[Item]):
    part: Part
    before: PartState | None  # set if the part is done and only its failed rows are retried
    pending: set[int]
    items: dict[int, Item] = field(default_factory=dict)
    failed: dict[int, FailedRow] = field(default_factory=dict)
    journal: IO[bytes] | None = None

    @property
    def retry(self) -> int:
        return 0 if self.before is None else len(self.before.files)


class Assembly(Generic[Item]):
    """The unfinished parts. For one thread."""

    def __init__(self, folder: RunFolder, sink: Sink[Item], on_commit: Callable[[PartState], None]) -> None:
        self._folder = folder
        self._sink = sink
        self._on_commit = on_commit
        self._open: dict[int, _OpenPart[Item]] = {}

    def begin(self, part: Part, before: PartState | None = None) -> frozenset[int]:
        """Open a part; return the rows still to do: those that are not in the journal, or that failed before.

        Args:
            part: the part.
            before: the state of a part whose failed rows are retried.
        """
        pending = set(part.indices) if before is None else {row.index for row in before.failed}
        opened = _OpenPart[Item](part, before, pending)
        path = self._folder.journal(part.number)
        if path is not None:
            journal = _read_journal(path, self._sink.from_json)
            opened.items |= {index: item for index, item in journal.items() if index in pending}
            pending.difference_update(opened.items)
            opened.journal = path.open("ab")
        remaining = frozenset(pending)
        self._open[part.number] = opened
        if not remaining:
            self._commit(opened)
        return remaining

    def add(self, outcome: Outcome) -> tuple[int, int] | Failure:
        """Add the outcome of one row; the last outcome of a part writes the part.

        Returns:
            The row's vision tokens before and after compression; or its failure, also if the output cannot hold the
            row.
        """
        opened = self._open[outcome.part]
        if outcome.index not in opened.pending:
            raise ValueError(f"row {outcome.index} has ended twice")
        item = self._item(outcome)
        if isinstance(item, Failure):
            opened.failed[outcome.index] = FailedRow(outcome.index, outcome.id, item)
        else:
            self._note(opened, outcome.index, item)
            opened.items[outcome.index] = item
        opened.pending.remove(outcome.index)
        if not opened.pending:
            self._commit(opened)
        return item if isinstance(item, Failure) else self._sink.tokens([item])

    def close(self) -> None:
        """Leave unfinished parts to a later run."""
        for opened in self._open.values():
            if opened.journal is not None:
                opened.journal.close()
        self._open.clear()

    def _item(self, outcome: Outcome) -> Item | Failure:
        if isinstance(outcome.result, Failure):
            return outcome.result
        try:
            return self._sink.item(outcome)
        except ValueError as error:
            return Failure.of(error, "write")

    def _note(self, opened: _OpenPart[Item], index: int, item: Item) -> None:
        """Append an item to the journal, without forcing it to the disk. This protects against the end of this process,
        the usual case; rows that a power failure loses are done again."""
        stored = self._sink.to_json(item)
        if opened.journal is not None and stored is not None:
            opened.journal.write(json.dumps({"index": index, "item": stored}).encode() + b"\n")
            opened.journal.flush()

    def _commit(self, opened: _OpenPart[Item]) -> None:
        part, before, sink = opened.part, opened.before, self._sink
        items = [opened.items[index] for index in sorted(opened.items)]
        files = () if before is None else before.files
        if items or before is None:  # a part without answers gets an empty file, so that no part's file is missing
            name = self._folder.name_of(part.number, sink.suffix, opened.retry)
            sink.write(self._folder.answers(name), items)
            files = (*files, name)
        tokens_before, tokens_after = sink.tokens(items)
        state = PartState(
            number=part.number,
            rows=len(part.entries),
            digest=part.digest,
            files=files,
            written=len(items) + (0 if before is None else before.written),
            tokens_before=tokens_before + (0 if before is None else before.tokens_before),
            tokens_after=tokens_after + (0 if before is None else before.tokens_after),
            failed=tuple(opened.failed[index] for index in sorted(opened.failed)),
        )
        if opened.journal is not None:
            opened.journal.close()
        self._folder.commit(state)
        del self._open[part.number]
        self._on_commit(state)


def _read_journal(path: Path, restored: Callable[[dict[str, Any]], Item]) -> dict[int, Item]:
    """The items that an earlier run recorded, by the rows' indices.

    A crash may have left an incomplete line, and a power failure lines that were never written. The file is truncated
    before the first unreadable line, so that further lines can be appended; the rows after it are done again.
    """
    if not path.is_file():
        return {}
    rows: dict[int, Item] = {}
    whole = 0
    with path.open("r+b") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                stored = json.loads(line)
                rows[stored["index"]] = restored(stored["item"])
            except (ValueError, TypeError, KeyError):
                break
            whole += len(line)
        file.truncate(whole)
    _log.info("%s: %d rows were done before", path.name, len(rows))
    return rows
