"""Keeps answers and tokens until their part is complete."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from visionsplit_batch.rows.records import Carry, Record, RunLabels, TokenRecord
from visionsplit_batch.rows.rows import Outcome
from visionsplit_batch.sinks import Sink, TokensSink

Item = TypeVar("Item")


class Recording(Protocol[Item]):
    """How a job's results are stored."""

    @property
    def sink(self) -> Sink[Item]:
        """Writes the parts."""

    def item(self, outcome: Outcome) -> Item:
        """Convert the outcome of a row that did not fail.

        Raises:
            ValueError: the output cannot hold it.
        """

    def tokens(self, items: Sequence[Item]) -> tuple[int, int]:
        """The vision tokens of these items before and after compression."""

    def to_json(self, item: Item) -> dict[str, Any] | None:
        """Convert an item for the journal; None if items are too large for it."""

    def from_json(self, stored: dict[str, Any]) -> Item:
        """Restore an item from the output of `to_json`."""


@dataclass(frozen=True)
class AnswersRecording:
    """Stores rows with answers."""

    sink: Sink[Record]
    labels: RunLabels
    carry: Carry

    def item(self, outcome: Outcome) -> Record:
        return Record.of(outcome, self.labels, self.carry)

    def tokens(self, items: Sequence[Record]) -> tuple[int, int]:
        return sum(item.tokens_before for item in items), sum(item.tokens_after for item in items)

    def to_json(self, item: Record) -> dict[str, Any]:
        return item.to_json()

    def from_json(self, stored: dict[str, Any]) -> Record:
        return Record.from_json(stored)


@dataclass(frozen=True)
class TokensRecording:
    """Stores rows of vision tokens, in memory only: an unfinished part is encoded again."""

    sink: TokensSink
    carry: Carry

    def item(self, outcome: Outcome) -> TokenRecord:
        record = TokenRecord.of(outcome, self.carry)
        self.sink.check(record)
        return record

    def tokens(self, items: Sequence[TokenRecord]) -> tuple[int, int]:
        summaries = [image.summary for item in items for image in item.images]
        return sum(one.tokens_before for one in summaries), sum(one.tokens_after for one in summaries)

    def to_json(self, item: TokenRecord) -> None:
        return None

    def from_json(self, stored: dict[str, Any]) -> TokenRecord:
        raise NotImplementedError("tokens have no journal")
