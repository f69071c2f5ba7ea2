"""Parquet: typed columns, the same in every part."""

from collections.abc import Iterable
from itertools import islice
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from visionsplit_batch.records import Record, record_schema
from visionsplit_batch.sinks.base import Sink, json_text

_GROUP_ROWS = 4096  # of a row group, which is held in memory


class ParquetSink(Sink[Record]):
    """Compressed with zstd; a part without rows has the columns too."""

    suffix = ".parquet"

    def _write(self, file: IO[bytes], rows: Iterable[Record]) -> None:
        schema = record_schema()
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            stream = iter(rows)
            while group := list(islice(stream, _GROUP_ROWS)):
                columns = [{**record.to_json(), "fields": json_text(record.fields)} for record in group]
                writer.write_batch(pa.RecordBatch.from_pylist(columns, schema))
