"""The output formats, read by the programs that users read them with."""

import io
import json
import tarfile
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from openai.types.chat import ChatCompletion
from visionsplit_batch.rows.part_state import FailedRow
from visionsplit_batch.rows.records import Record, Timings
from visionsplit_batch.rows.rows import Failure
from visionsplit_batch.sinks import FORMATS, sink_for
from visionsplit_batch.sinks.webdataset import row_id_of, sample_key
from visionsplit_batch.storage.storage import Storage

from tests.unit.batch.outcomes import LABELS, answered

IDS = ["plain", "a/b.c.jpg", "雪 ü", 'quote"\n\u2028', "%2E", "..", "x" * 300, "caf\udce9.png", "emoji 🐈"]


@pytest.fixture(params=list(FORMATS))
def sink(request):
    return sink_for(request.param, Storage(), LABELS)


def records() -> list[Record]:
    rows = [answered(row_id, (f" About {row_id[:9]!a}. ",), images=1 + n % 2) for n, row_id in enumerate(IDS)]
    rows.append(answered("two", ("First.", "Zweitens: ü"), fields={"year": 1999, "tags": ["é", None], "b": None}))
    rows.append(answered("none", ("",), images=0))
    return [Record.of(row, LABELS) for row in rows]


def written(sink, rows, folder) -> bytes:
    path = folder / f"part{sink.suffix}"
    sink.write(str(path), rows)
    return path.read_bytes()


def json_values(record: Record) -> dict:
    return json.loads(json.dumps(record.to_json()))


def test_json_lines(tmp_path):
    lines = written(sink_for("jsonl", Storage(), LABELS), records(), tmp_path).decode().split("\n")
    assert lines.pop() == ""
    assert [Record.from_json(json.loads(line)) for line in lines] == records()
    assert list(json.loads(lines[0])) == list(records()[0].to_json())
    assert "雪" in lines[2]


def test_parquet(tmp_path):
    sink = sink_for("parquet", Storage(), LABELS)
    written(sink, records(), tmp_path)
    rows = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert [row | {"fields": json.loads(row["fields"])} for row in rows] == [json_values(one) for one in records()]
    file = pq.ParquetFile(tmp_path / "part.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    sink.write(str(tmp_path / "empty.parquet"), [])
    assert pq.read_schema(tmp_path / "empty.parquet").equals(file.schema_arrow, check_metadata=True)
    assert pq.read_table(tmp_path).num_rows == len(records())


def test_parquet_of_many_rows_has_groups(tmp_path):
    record = Record.of(answered(), LABELS)
    written(sink_for("parquet", Storage(), LABELS), (replace(record, id=str(n)) for n in range(5000)), tmp_path)
    file = pq.ParquetFile(tmp_path / "part.parquet")
    assert file.metadata.num_row_groups == 2
    assert file.read(["id"])["id"].to_pylist() == [str(n) for n in range(5000)]


def test_webdataset(tmp_path):
    content = written(sink_for("webdataset", Storage(), LABELS), records(), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
        files = {member.name: archive.extractfile(member).read() for member in members}
    names = list(files)
    keys = [name.partition(".")[0] for name in names]
    assert names == [f"{key}.{kind}" for key in keys[::2] for kind in ("json", "txt")]
    assert [row_id_of(key) for key in keys[::2]] == [record.id for record in records()]
    for record, key in zip(records(), keys[::2], strict=True):
        assert json.loads(files[f"{key}.json"]) == json_values(record)
        assert files[f"{key}.txt"].decode() == record.caption
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }


@pytest.mark.parametrize("row_id", ["a", "a.b/c\\d", "%2E", "..", "~-_", "a b", "雪", "\0", "A"])
def test_sample_keys_are_plain_and_give_the_id_back(row_id):
    key = sample_key(row_id)
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-~%")
    assert row_id_of(key) == row_id


class TestOpenAi:
    def test_lines_are_those_of_a_batch(self, tmp_path):
        lines = written(sink_for("openai", Storage(), LABELS), records(), tmp_path).splitlines()
        results = [json.loads(line) for line in lines]
        assert [result["custom_id"] for result in results] == [record.id for record in records()]
        assert len({result["id"] for result in results}) == len(results)
        for result, record in zip(results, records(), strict=True):
            assert list(result) == ["id", "custom_id", "response", "error"]
            assert result["error"] is None
            assert result["response"]["status_code"] == 200
            completion = ChatCompletion.model_validate(result["response"]["body"], strict=True)
            assert [choice.message.content for choice in completion.choices] == [one.text for one in record.answers]
            assert completion.choices[0].finish_reason == "stop"
            assert completion.model == LABELS.model
            assert completion.usage.prompt_tokens == sum(one.prompt_tokens for one in record.answers)
            assert completion.usage.completion_tokens == sum(one.generated_tokens for one in record.answers)

    @pytest.mark.parametrize(
        ("failure", "status"),
        [
            (Failure("InvalidImageError", "no image", "encode"), 400),
            (Failure("PromptTooLongError", "too long", "ask"), 400),
            (Failure("FileNotFoundError", "gone", "read"), 400),
            (Failure("OverloadedError", "full", "ask"), 429),
            (Failure("UnauthenticatedError", "who?", "ask"), 401),
            (Failure("UnavailableError", "draining", "ask"), 503),
            (Failure("DeadlineError", "slow", "encode"), 504),
            (Failure("InternalError", "oh", "ask"), 500),
            (Failure("ZeroDivisionError", "oh", "ask"), 500),
        ],
        ids=str,
    )
    def test_failures_have_the_status_of_their_class(self, failure, status):
        line = sink_for("openai", Storage(), LABELS).failure_line(FailedRow(7, "a\udcff", failure))
        result = json.loads(line)
        assert (result["custom_id"], result["error"]) == (r"a\udcff", None)
        assert result["response"]["status_code"] == status
        error = result["response"]["body"]["error"]
        assert (error["message"], error["code"]) == (failure.message, failure.error)
        assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")


@pytest.mark.parametrize("name", ["jsonl", "parquet", "webdataset"])
def test_failures_are_a_line_of_json(name):
    row = FailedRow(7, "a\udcff", Failure("InvalidImageError", "no image in 'a\udcff'", "read"))
    line = sink_for(name, Storage(), LABELS).failure_line(row)
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "index": 7,
        "id": r"a\udcff",
        "error": "InvalidImageError",
        "message": r"no image in 'a\udcff'",
        "stage": "read",
    }


def test_equal_rows_give_equal_bytes(sink, tmp_path):
    first = written(sink, records(), tmp_path)
    restored = (Record.from_json(json_values(record)) for record in records())
    assert written(sink, restored, tmp_path) == first


def test_rows_that_differ_in_their_seconds_differ_only_there(tmp_path):
    record = records()[0]
    other = replace(record, timings=Timings(*map(float, range(7))))
    openai, jsonl = sink_for("openai", Storage(), LABELS), sink_for("jsonl", Storage(), LABELS)
    assert written(openai, [record], tmp_path) == written(openai, [other], tmp_path)
    first, second = (json.loads(written(jsonl, [one], tmp_path)) for one in (record, other))
    assert first.pop("timings") != second.pop("timings")
    assert first == second


def test_a_part_without_rows_has_a_file(sink, tmp_path):
    content = written(sink, [], tmp_path)
    if sink.suffix == ".tar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert archive.getmembers() == []
    elif sink.suffix == ".parquet":
        assert pq.read_table(io.BytesIO(content)).num_rows == 0
    else:
        assert content == b""


def test_an_error_on_the_way_leaves_no_file_and_an_older_one_as_it_was(sink, tmp_path):
    def broken():
        yield records()[0]
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        written(sink, broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    before = written(sink, records(), tmp_path)
    with pytest.raises(RuntimeError, match="on the way"):
        written(sink, broken(), tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == before


def test_formats_have_names():
    with pytest.raises(ValueError, match="unknown output format 'csv'; there are: jsonl, parquet, webdataset, openai"):
        sink_for("csv", Storage(), LABELS)
