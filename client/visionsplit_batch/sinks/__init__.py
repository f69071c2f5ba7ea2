"""The output formats, and the table of their names."""

from collections.abc import Mapping

from visionsplit_batch.rows.fields import Carry
from visionsplit_batch.rows.records import RunLabels
from visionsplit_batch.sinks.base import AnswersSink, Item, Sink
from visionsplit_batch.sinks.jsonl import JsonlSink
from visionsplit_batch.sinks.openai import OpenAiSink
from visionsplit_batch.sinks.parquet import ParquetSink
from visionsplit_batch.sinks.tokens import TokensSink
from visionsplit_batch.sinks.webdataset import WebDatasetSink
from visionsplit_batch.storage.storage import Storage

__all__ = ["FORMATS", "Item", "Sink", "TokensSink", "sink_for"]

FORMATS: Mapping[str, type[AnswersSink]] = {
    "jsonl": JsonlSink,
    "parquet": ParquetSink,
    "webdataset": WebDatasetSink,
    "openai": OpenAiSink,
}


def sink_for(name: str, storage: Storage, labels: RunLabels, carry: Carry = None) -> AnswersSink:
    """Create the sink of a format for answered rows.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown output format {name!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[name](storage, labels, carry)
