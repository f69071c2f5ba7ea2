"""JSON lines: one object per row."""

from collections.abc import Iterable
from typing import IO

from visionsplit_batch.rows.records import Record
from visionsplit_batch.sinks.base import AnswersSink, json_line


class JsonlSink(AnswersSink):
    """Writes UTF-8 text, one line per row, with the columns as keys."""

    suffix = ".jsonl"

    def _write(self, file: IO[bytes], rows: Iterable[Record]) -> None:
        for record in rows:
            file.write(json_line(record.to_json()))
