"""Parquet: typed columns, equal in every part."""

from collections.abc import Iterable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from visionsplit_batch.rows.records import Record, record_schema
from visionsplit_batch.sinks.base import AnswersSink, json_text

_GROUP_ROWS = 4096  # rows of a row group, which is held in memory
_GROUP_CHARACTERS = 1 << 27  # of a row group's `fields`: a text column can hold 2 GiB per group


class ParquetSink(AnswersSink):
    """Writes files compressed with zstd; a part without rows has the columns too."""

    suffix = ".parquet"

    def _write(self, file: IO[bytes], rows: Iterable[Record]) -> None:
        schema = record_schema()
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _groups(rows):
                writer.write_batch(pa.RecordBatch.from_pylist(group, schema))


def _groups(rows: Iterable[Record]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    length = 0
    for record in rows:
        fields = json_text(record.fields)
        group.append({**record.to_json(), "fields": fields})
        length += len(fields)
        if len(group) == _GROUP_ROWS or length > _GROUP_CHARACTERS:
            yield group
            group, length = [], 0
    if group:
        yield group
