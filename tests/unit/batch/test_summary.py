"""A job's report about its input and its results."""

import json

from visionsplit_batch.job.job import Counts, JobSummary
from visionsplit_batch.job.summary import input_json, input_text, left_out_text, summary_json, summary_text
from visionsplit_batch.rows.left_out import LeftOut
from visionsplit_batch.rows.part_state import RunTotals

SHARES = {"read": 0.01, "encode": 0.02, "ask": 0.01}
LEFT_OUT = (
    LeftOut("format", 30, ("a.txt", "b.txt", "c.txt", "d.txt", "e.txt", "f.txt")),
    LeftOut("hidden", 1, (".x",)),
)


def summary(rows=12, *, failed=0, before=0, seconds=60.0, first=5.0, parts=1):
    counts = Counts(rows + before, before, rows - failed, failed, 100, 25, seconds, first)
    return JobSummary(counts, RunTotals(parts, rows + before - failed, failed))


def test_a_stage_sets_the_pace_only_where_it_is_busy():
    assert "busy: read 1%, encode 2%, ask 1%\n" in summary_text(summary(), SHARES, "out")
    assert "ask 90%; ask sets the pace" in summary_text(summary(), {**SHARES, "ask": 0.9}, "out")
    assert "ask 49%\n" in summary_text(summary(), {**SHARES, "ask": 0.49}, "out")
    slow = summary_text(summary(first=40.0), SHARES, "out")
    assert "ask 1%; 40.0 s passed before the first row was done\n" in slow
    assert "passed" not in summary_text(summary(seconds=0.3, first=0.2), SHARES, "out")


def test_one_is_not_many():
    one = summary_text(summary(1, failed=1, before=1), {}, "out")
    assert one.splitlines() == [
        "1 image in 1 min 0 s, 0.02 images/s; 1 was done before",
        "25 of 100 vision tokens kept (25.0%)",
        "1 row in 1 part in out",
        "1 row failed, see errors.jsonl there; --retry-errors tries again",
    ]
    none = summary_text(summary(0, before=2), {}, "out")
    assert none.splitlines()[0] == "nothing was left to do; 2 were done before"
    many = summary_text(summary(12, failed=2, before=2, parts=2), {}, "out")
    assert "12 images" in many
    assert "2 were done before" in many
    assert "12 rows in 2 parts in out\n2 rows failed" in many


def test_the_columns_that_were_taken_are_named():
    columns = {"id": None, "image": "jpg", "prompt": None, "fields": None}
    text = input_text({"format": "parquet", "columns": columns}, 3)
    assert text == "input: 3 rows of the format parquet; columns: images from 'jpg', ids are the rows' places"
    asked = input_text({"format": "jsonl", "columns": {**columns, "id": "key", "prompt": "ask"}}, 1)
    assert asked == "input: 1 row of the format jsonl; columns: images from 'jpg', ids from 'key', prompts from 'ask'"
    assert input_text({"format": "files"}, 2) == "input: 2 rows of the format files"
    event = json.loads(input_json({"format": "parquet", "columns": columns}, 3))
    assert event == {"event": "input", "format": "parquet", "rows": 3, "columns": columns}


def test_what_was_left_out_is_in_the_summary():
    event = json.loads(summary_json(summary(), SHARES, LEFT_OUT))
    assert event["left_out"]["format"] == {"count": 30, "names": list(LEFT_OUT[0].names)}
    assert event["left_out"]["hidden"] == {"count": 1, "names": [".x"]}
    assert (event["written"], event["first_seconds"], event["stages"]) == (12, 5.0, SHARES)
    assert left_out_text(LEFT_OUT) == (
        "left out of the input: 30 files of another format ('a.txt', 'b.txt', 'c.txt', 'd.txt', 'e.txt', ...), "
        "1 hidden or system file ('.x')"
    )
