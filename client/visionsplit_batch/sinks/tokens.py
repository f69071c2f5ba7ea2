"""Shards of vision tokens: all rows of a part in one safetensors file, with each row's tensors next to each other."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import IO

from visionsplit.wire.stored_tensors import StoredTensor, TensorWriter

from visionsplit_batch.errors import OutputError
from visionsplit_batch.rows.fields import Carry
from visionsplit_batch.rows.records import RunLabels, TokenRecord
from visionsplit_batch.rows.rows import Outcome
from visionsplit_batch.sinks.base import Sink, json_text
from visionsplit_batch.storage.storage import Storage

SHARD_FORMAT = "visionsplit-token-shard/1"
# Wide elements come first, so that all tensors are aligned if a token's width is a multiple of 4.
TENSORS = ("positions", "scales", "features")
_HEADER_CHARACTERS = 80_000_000  # of the format's 100 MB; the positions of tensors need the rest


class TokensSink(Sink[TokenRecord]):
    """Writes for image m of the n-th row the tensors `n.m.features`, `n.m.positions` and `n.m.scales`.

    They are what `EncodedImage.save` writes. The file's metadata has `format`, `rows` (their count), the run's labels,
    and for each row under its number the JSON of its id, its fields, and each image's own metadata. A row is one range
    of bytes. Items wait in memory only: an unfinished part is encoded again.
    """

    suffix = ".safetensors"

    def __init__(self, storage: Storage, labels: RunLabels, rows_per_part: int, carry: Carry = None) -> None:
        super().__init__(storage, labels, carry)
        self._most_characters = _HEADER_CHARACTERS // rows_per_part

    def item(self, outcome: Outcome) -> TokenRecord:
        """See `Sink.item`. The header of one file contains the columns of all its rows, which limits those of each."""
        record = TokenRecord.of(outcome, self._carry)
        characters = len(json.dumps(_metadata(record)))
        if characters > self._most_characters:
            raise ValueError(
                f"the row's columns take {characters} characters, more than the {self._most_characters} that a file of "
                "tokens has for each of its rows; copy fewer columns to the output with --column or --no-columns"
            )
        return record

    def tokens(self, items: Sequence[TokenRecord]) -> tuple[int, int]:
        summaries = [image.summary for item in items for image in item.images]
        return sum(one.tokens_before for one in summaries), sum(one.tokens_after for one in summaries)

    def _write(self, file: IO[bytes], rows: Iterable[TokenRecord]) -> None:
        stored: dict[str, str] = {}
        with TensorWriter() as writer:
            for number, record in enumerate(rows):
                for name, tensor in _tensors(number, record):
                    writer.add(name, tensor)
                stored[str(number)] = _metadata(record)
            metadata = {"format": SHARD_FORMAT, "rows": str(len(stored)), **asdict(self._labels), **stored}
            try:
                writer.finish(file, metadata)
            except ValueError as error:
                raise OutputError(f"{len(stored)} rows are too many for one file of tokens: {error}") from error


def tensor_name(row: int, image: int, tensor: str) -> str:
    return f"{row}.{image}.{tensor}"


def _tensors(row: int, record: TokenRecord) -> Iterator[tuple[str, StoredTensor]]:
    for number, image in enumerate(record.images):
        tensors = image.to_tensors()
        yield from ((tensor_name(row, number, name), tensors[name]) for name in TENSORS if name in tensors)


def _metadata(record: TokenRecord) -> str:
    images = [image.to_metadata() for image in record.images]
    return json_text({"id": record.id, "fields": record.fields, "images": images})
