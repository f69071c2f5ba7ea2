"""WebDataset: a tar file in which consecutive files with the same name up to the first dot form a sample."""

import io
import tarfile
from collections.abc import Iterable
from typing import IO
from urllib.parse import quote, unquote

from visionsplit_batch.rows.records import Record
from visionsplit_batch.sinks.base import AnswersSink, json_text


class WebDatasetSink(AnswersSink):
    """Writes per row KEY.json with all columns and KEY.txt with the caption. `sample_key` gives the key of an id."""

    suffix = ".tar"

    def _write(self, file: IO[bytes], rows: Iterable[Record]) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for record in rows:
                key = sample_key(record.id)
                _add(archive, f"{key}.json", json_text(record.to_json()).encode())
                _add(archive, f"{key}.txt", record.caption.encode())


def sample_key(row_id: str) -> str:
    """The id with all but ASCII letters, digits and "_-~" percent-encoded, since readers split at dots and slashes."""
    return quote(row_id, safe="").replace(".", "%2E")


def row_id_of(key: str) -> str:
    """Convert a `sample_key` back to the id."""
    return unquote(key, errors="strict")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # with time and owner 0 and mode 0644, equal in every run
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
