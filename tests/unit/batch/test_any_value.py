"""Any value in any column of any input reaches every output, or fails only its row."""

import datetime
import itertools
import json
import math
import os
import shutil
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.fields import plain_text
from visionsplit_batch.rows.rows import Content, Failure
from visionsplit_batch.sources import Columns

from tests.unit.batch import tables
from tests.unit.batch.source_checks import opened, png

OUTPUTS = [
    ("jsonl", "answers"),
    ("parquet", "answers"),
    ("webdataset", "answers"),
    ("openai", "answers"),
    ("", "tokens"),
]
FOLDERS = itertools.count()

text = st.text(st.characters(codec=None), max_size=8)  # also lone surrogates and NUL
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
names = text.filter(lambda name: name.lower() not in ("image", "conversations", "custom_id") and name)
json_rows = st.lists(st.dictionaries(names, json_values, max_size=3), min_size=1, max_size=4)

few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def written(value: Any) -> Any:
    """How a JSON value is written."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {plain_text(name): written(one) for name, one in value.items()}
    if isinstance(value, list):
        return [written(one) for one in value]
    return value


def outcomes(path: Path, folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by each output."""
    return {
        output: tables.through_a_job(path, folder / f"out{number}", *output[:1], kind=output[1])
        for number, output in enumerate(OUTPUTS)
    }


def check(path: Path, folder: Path, expected: list[Any]) -> None:
    """Every output holds these fields, in this order of rows."""
    for (name, _), rows in outcomes(path, folder).items():
        if name == "openai":
            assert list(rows.values()) == [None] * len(expected)
        else:
            assert list(rows.values()) == expected


@pytest.fixture
def new_folder(tmp_path):
    """Makes a folder for each example."""
    datasets.disable_progress_bars()

    def make() -> Path:
        folder = tmp_path / str(next(FOLDERS))
        folder.mkdir()
        return folder

    yield make
    shutil.rmtree(tmp_path)


@few
@given(rows=json_rows, form=st.sampled_from(["lines", "array", "shard", "utf-16", "utf-32"]))
def test_json(new_folder, rows, form):
    folder = new_folder()
    if form == "array":
        path = tables.write_json_array(rows, folder / "rows.json")
    elif form == "shard":
        path = tables.write_shard(rows, folder / "rows.tar")
    else:
        path = tables.write_json_lines(rows, folder / "rows.jsonl", encoding="utf-8" if form == "lines" else form)
    check(path, folder, [written(row) for row in rows])


csv_text = st.text(st.characters(codec="utf-8"), max_size=8)


@few
@given(
    rows=st.lists(st.tuples(csv_text, csv_text), min_size=1, max_size=4),
    form=st.sampled_from([(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-32")]),
)
def test_csv(new_folder, rows, form):
    folder = new_folder()
    named = [{"one": one, "two": two} for one, two in rows]
    path = tables.write_csv(named, folder / "rows.csv", delimiter=form[0], encoding=form[1])
    check(path, folder, named)


@few
@given(values=st.lists(st.binary(max_size=6), min_size=1, max_size=4), saved=st.booleans())
def test_texts_of_any_bytes_in_tables(new_folder, values, saved):
    """Arrow does not check that text is UTF-8."""
    folder = new_folder()
    column = pa.array(values, pa.binary()).view(pa.string())
    write = tables.write_saved if saved else tables.write_parquet
    path = write({"text": column}, folder / ("saved" if saved else "rows.parquet"))
    check(path, folder, [{"text": plain_text(value.decode("utf-8", "surrogateescape"))} for value in values])


def numbers(values: list[int], kind: pa.DataType) -> pa.Array:
    """Values of a type by the numbers that stand for them."""
    return pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


IDENTITY = uuid.UUID(int=5)
COLUMNS = {
    "nan": (pa.array([float("nan"), float("inf"), -0.0]), [None, None, -0.0]),
    "half": (pa.array([1.5, None, float("-inf")], pa.float16()), [1.5, None, None]),
    "large": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64 - 1, 0, None]),
    "decimal": (pa.array([Decimal("12.50"), None, Decimal("-1")], pa.decimal128(9, 2)), ["12.50", None, "-1.00"]),
    "bytes": (pa.array([b"\xff\0", b"", None]), ["/wA=", "", None]),
    "fixed": (pa.array([b"ab", b"cd", None], pa.binary(2)), ["YWI=", "Y2Q=", None]),
    "moment": (
        numbers([0, 1704164645123456789, 10**18 + 1], pa.timestamp("ns")),
        ["1970-01-01T00:00:00", "2024-01-02T03:04:05.123456789", "2001-09-09T01:46:40.000000001"],
    ),
    "zoned": (
        numbers([0, 1500, 253402300800000], pa.timestamp("ms", "Europe/Berlin")),
        ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01.5Z", "10000-01-01T00:00:00Z"],
    ),
    "nowhere": (
        numbers([0, 1, -1], pa.timestamp("s", "No/Where")),
        ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z", "1969-12-31T23:59:59Z"],
    ),
    "day": (numbers([0, -1, 3_000_000], pa.date32()), ["1970-01-01", "1969-12-31", "10183-09-21"]),
    "time": (
        numbers([0, 1, 86_399_000_000_001], pa.time64("ns")),
        ["00:00:00", "00:00:00.000000001", "23:59:59.000000001"],
    ),
    "span": (numbers([0, -1, 90_500_000_000], pa.duration("ns")), ["PT0S", "-PT0.000000001S", "PT90.5S"]),
    "list": (pa.array([[b"a", None], [], None], pa.list_(pa.binary())), [["YQ==", None], [], None]),
    "struct": (
        pa.array([{"t": datetime.time(1), "f": float("nan")}, None, {"t": None, "f": 1.0}]),
        [{"t": "01:00:00", "f": None}, None, {"t": None, "f": 1.0}],
    ),
    "map": (
        pa.array([[("k", 1)], [("a", 1), ("a", 2)], None], pa.map_(pa.string(), pa.int64())),
        [{"k": 1}, [["a", 1], ["a", 2]], None],
    ),
    "identity": (pa.array([IDENTITY.bytes, None, IDENTITY.bytes], pa.uuid()), [str(IDENTITY), None, str(IDENTITY)]),
    "chosen": (pa.array(["x", None, "y"]).dictionary_encode(), ["x", None, "y"]),
    "view": (pa.array(["x" * 20, None, "y"], pa.string_view()), ["x" * 20, None, "y"]),
    "large_text": (pa.array(["x", None, "y"], pa.large_string()), ["x", None, "y"]),
    "nothing": (pa.nulls(3), [None, None, None]),
}
NOT_IN_ARROW_FILES = {"chosen"}  # refused as a whole, since such files cannot be read row by row


def test_every_type_of_a_parquet_file(new_folder):
    folder = new_folder()
    path = tables.write_parquet({name: column for name, (column, _) in COLUMNS.items()}, folder / "rows.parquet")
    check(path, folder, [{name: values[row] for name, (_, values) in COLUMNS.items()} for row in range(3)])


def test_every_type_of_a_saved_dataset(new_folder):
    folder = new_folder() / "saved"
    folder.mkdir()
    some = {name: both for name, both in COLUMNS.items() if name not in NOT_IN_ARROW_FILES}
    table = tables.with_images({name: column for name, (column, _) in some.items()})
    with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    check(folder, folder.parent, [{name: values[row] for name, (_, values) in some.items()} for row in range(3)])


def test_what_has_no_form_fails_its_row_alone(new_folder):
    folder = new_folder()
    times = {"time": numbers([-1, 5, 86_400], pa.time32("s"))}
    rows = tables.through_a_job(tables.write_parquet(times, folder / "rows.parquet"), folder / "out", "jsonl")
    assert rows["row 1"] == {"time": "00:00:05"}
    for failure in (rows["row 0"], rows["row 2"]):
        assert isinstance(failure, Failure)
        assert "the column 'time' cannot be read" in failure.message
    nested = [{"deep": json.loads("[" * 100 + "]" * 100)}, {"deep": [[]]}]
    rows = tables.through_a_job(tables.write_json_lines(nested, folder / "rows.jsonl"), folder / "deep", "jsonl")
    assert rows["line 2"] == {"deep": [[]]}
    assert rows["line 1"].stage == "read"
    assert "'deep' cannot be written: its value is nested deeper than 64 levels" in rows["line 1"].message


def test_columns_that_no_file_of_tokens_has_room_for_fail_their_row_alone(new_folder):
    folder = new_folder()
    path = tables.write_json_lines([{"long": "x" * 2_000_000}, {"long": "x"}], folder / "rows.jsonl")
    rows = tables.through_a_job(path, folder / "out", "", kind="tokens")
    assert rows["line 2"] == {"long": "x"}
    assert (rows["line 1"].error, rows["line 1"].stage) == ("ValueError", "write")
    assert "copy fewer columns to the output" in rows["line 1"].message


@few
@given(rows=st.lists(scalars | st.lists(scalars, max_size=2), min_size=1, max_size=6, unique_by=str))
def test_any_value_as_an_id_names_its_row_or_fails_it_alone(new_folder, rows):
    folder = new_folder()
    path = tables.write_json_lines([{"key": value} for value in rows], folder / "rows.jsonl")
    entries = list(opened(path, columns=Columns(id="key")).entries())
    assert len({entry.id for entry in entries}) == len(rows)
    for entry, value in zip(entries, rows, strict=True):
        sound = isinstance(value, int | str) and not isinstance(value, bool) and value != "" and is_utf8(str(value))
        assert entry.id == (str(value) if sound else f"line {entry.place[2]}")
        (content,) = opened(path, columns=Columns(id="key")).read([entry])
        assert isinstance(content, Content) == sound


signs = st.sampled_from([bytes([sign]) for sign in range(1, 256) if chr(sign) not in "/\n"])
file_names = st.lists(signs, min_size=1, max_size=8).map(b"".join).filter(lambda name: name.strip(b"."))


@few
@given(found=st.dictionaries(file_names, st.booleans(), min_size=1, max_size=6))
def test_every_file_is_a_row_or_counted_and_every_line_of_a_list_is_a_row(new_folder, found):
    folder = new_folder() / "files"
    folder.mkdir()
    for name, is_image in found.items():
        (folder / os.fsdecode(name)).write_bytes(png(1) if is_image else b"words")
    shown = {name for name, is_image in found.items() if is_image and not name.startswith(b".")}
    source = opened(folder, format="files")
    rows = rows_or_none(source)
    assert {os.fsencode(entry.path.rpartition("/")[2]) for entry in rows} >= shown
    assert len(rows) + sum(one.count for one in source.left_out) == len(found)
    lines = [name for name in found if not name.endswith(b"\r") and name.decode(errors="replace").strip()]
    (folder.parent / "list.txt").write_bytes(b"\n".join(lines))
    listed = rows_or_none(opened(folder.parent / "list.txt", image_root=str(folder)))
    names = {os.fsencode(entry.path.rpartition("/")[2]) for entry in listed}
    assert names >= {name for name in lines if b":" not in name}


def rows_or_none(source: Any) -> list[Any]:
    try:
        return list(source.entries())
    except InputError as error:
        if "has no rows" not in str(error):
            raise
        return []


def is_utf8(value: str) -> bool:
    return plain_text(value) == value
