"""Writes one table of rows as a file of each input format, and reads it back from each output format."""

import base64
import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from visionsplit_batch.job.assembly import Assembly
from visionsplit_batch.job.parts import cut
from visionsplit_batch.job.saved_progress import RunFolder
from visionsplit_batch.rows.rows import Answers, Failure, Outcome, Tokens
from visionsplit_batch.sinks import TokensSink, sink_for
from visionsplit_batch.sources.tokens import TokenShards
from visionsplit_batch.storage.storage import Storage

from tests.unit.batch.outcomes import LABELS, answered, encoded
from tests.unit.batch.source_checks import opened, png

Rows = Sequence[Mapping[str, Any]]


def write_json_lines(rows: Rows, path: Path, *, encoding: str = "utf-8") -> Path:
    lines = "".join(json.dumps({"image": data_url(n), **row}) + "\n" for n, row in enumerate(rows))
    path.write_bytes(lines.encode(encoding))
    return path


def write_json_array(rows: Rows, path: Path) -> Path:
    path.write_text(json.dumps([{"image": data_url(n), **row} for n, row in enumerate(rows)], indent=1))
    return path


def write_csv(rows: Rows, path: Path, *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["image", *names])
        writer.writerows([data_url(n), *(row[name] for name in names)] for n, row in enumerate(rows))
    return path


def write_parquet(columns: Mapping[str, pa.Array], path: Path) -> Path:
    pq.write_table(with_images(columns), path)
    return path


def write_saved(columns: Mapping[str, pa.Array], path: Path) -> Path:
    datasets.Dataset(with_images(columns)).save_to_disk(str(path))
    return path


def write_shard(rows: Rows, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, row in enumerate(rows):
            for suffix, data in (("png", png(number)), ("json", json.dumps(row).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


def with_images(columns: Mapping[str, pa.Array]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"image": pa.array([png(n) for n in range(rows)]), **columns})


def data_url(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(number)).decode()


def through_a_job(path: Path, out: Path, output_format: str, *, kind: str = "answers") -> dict[str, Any]:
    """Each row's fields as the output has them, by its id, or its `Failure`.

    The rows are read as a job reads them and answered at once, put together, written, and read back. Each row is in
    exactly one of the output and the list of errors.
    """
    storage = Storage()
    folder = RunFolder(str(out), storage)
    sink: Any = TokensSink(storage, LABELS, 64) if kind == "tokens" else sink_for(output_format, storage, LABELS)
    source = opened(path, output=str(out))
    with folder.opened({"input": dict(source.settings())}):
        assembly = Assembly(folder, sink, lambda state: None)
        for part in cut(source.entries(), 64):
            assembly.begin(part)
            for index, entry, content in zip(part.indices, part.entries, source.read(part.entries), strict=True):
                assembly.add(outcome_of(index, entry.id, content, kind))
        folder.write_errors(sink.failure_line)
        failed = {row.id: row.failure for state in folder.states() for row in state.failed}
        written = [row for state in folder.states() for name in state.files for row in rows_of(out / name)]
    ids = [row_id for row_id, _ in written]
    assert len(set(ids)) == len(ids)
    assert not failed.keys() & set(ids)
    return {**dict(written), **failed}


def outcome_of(index: int, row_id: str, content: Any, kind: str) -> Outcome:
    if isinstance(content, Failure):
        return Outcome(0, index, row_id, content)
    made = encoded(row_id, index=index) if kind == "tokens" else answered(row_id, index=index)
    assert isinstance(made.result, Answers | Tokens)
    return replace(made, result=replace(made.result, fields=content.fields))


def rows_of(path: Path) -> list[tuple[str, Any]]:
    """Id and fields of each row of an output file; None for the fields where the format has none."""
    if path.suffix == ".parquet":
        return [(row["id"], strict_json(row["fields"])) for row in pq.read_table(path).to_pylist()]
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            files = [archive.extractfile(member) for member in archive if member.name.endswith(".json")]
            rows = [strict_json(file.read()) for file in files if file is not None]
        return [(row["id"], row["fields"]) for row in rows]
    if path.suffix == ".safetensors":
        shards = TokenShards(str(path), Storage())
        entries = list(shards.entries())
        return [(one.id, content.fields) for one, content in zip(entries, shards.read(entries), strict=True)]
    rows = [strict_json(line) for line in path.read_bytes().splitlines()]
    return [(row["id"], row["fields"]) if "fields" in row else (row["custom_id"], None) for row in rows]


def strict_json(text: str | bytes) -> Any:
    """JSON as other readers take it: without NaN and the infinities, UTF-8 without lone surrogates."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=refuse)
