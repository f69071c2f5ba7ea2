"""The record that a job stores for an answered row."""

import json

import pyarrow as pa
import pytest
from visionsplit_batch.rows.fields import carried
from visionsplit_batch.rows.records import Record, Timings, TokenRecord, method_text, record_schema
from visionsplit_batch.rows.rows import Failure, Outcome, Question
from visionsplit_client import Compression, ImagePart, Message, Pruning

from tests.unit.batch.outcomes import LABELS, answered, encoded, encoded_image


def test_a_record_has_the_rows_answers_and_what_they_cost():
    record = Record.of(answered("row", (" A cat. \n", "Two"), images=2, fields={"year": 1999}), LABELS)
    images = [encoded_image(0).summary, encoded_image(1).summary]
    assert (record.id, record.caption) == ("row", "A cat.")
    assert [(answer.prompt, answer.text) for answer in record.answers] == [
        ("What is 0?", " A cat. \n"),
        ("What is 1?", "Two"),
    ]
    assert [answer.generated_tokens for answer in record.answers] == [9, 3]
    assert record.tokens_before == sum(image.tokens_before for image in images)
    assert record.tokens_after == sum(map(sum, record.budgets)) == record.answers[0].prompt_tokens - 12
    assert record.budgets == tuple(image.budgets for image in images)
    assert record.wire_bytes == sum(image.wire_bytes for image in images)
    assert record.newline_tokens == 3
    assert (record.model, record.method, record.run) == (LABELS.model, LABELS.method, LABELS.run)
    assert record.fields == {"year": 1999}


def test_seconds_are_summed_over_images_and_over_answers():
    timings = Record.of(answered(texts=("one", "two"), images=2), LABELS).timings
    assert timings == Timings(
        preprocess=0.25, queue=0.5, encode=1.0, llm_queue=0.5, first_token=1.0, decode=2.0, total=6.0
    )


def test_a_record_comes_back_from_json_equal():
    record = Record.of(
        answered("ü/\u2028\n", ("雪", ""), images=2, fields={"tags": ["é", None], "at": {"x": 1.5}}), LABELS
    )
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("change", [{"answers": 3}, {"timings": {"total": 1.0}}, {"unknown": 1}])
def test_json_of_another_form_is_no_record(change):
    stored = Record.of(answered(), LABELS).to_json()
    with pytest.raises((KeyError, TypeError)):
        Record.from_json(stored | change)
    with pytest.raises((KeyError, TypeError)):
        Record.from_json({name: stored[name] for name in ("id", "caption")})


def test_the_prompt_of_a_conversation_is_the_json_of_its_messages():
    messages = (Message("system", "Be brief."), Message("user", [ImagePart(), "Wo läuft er?"]))
    record = Record.of(answered(questions=(Question(messages=messages),)), LABELS)
    prompt = record.answers[0].prompt
    assert "läuft" in prompt
    assert tuple(map(Message.from_dict, json.loads(prompt))) == messages


def test_only_an_outcome_of_its_kind_becomes_a_record():
    failed = Outcome(0, 0, "a", Failure("InvalidImageError", "no image", "encode"))
    for outcome in (failed, encoded(), answered(texts=())):
        with pytest.raises(TypeError, match="row 'a' has no answers"):
            Record.of(outcome, LABELS)
    for outcome in (failed, answered()):
        with pytest.raises(TypeError, match="row 'a' has no tokens"):
            TokenRecord.of(outcome)


def test_a_file_name_that_is_no_text_is_written_out():
    record = Record.of(answered("caf\udce9.png", fields={"path\udcff": "x\udcff"}), LABELS)
    assert record.id == r"caf\udce9.png"
    assert record.fields == {r"path\udcff": r"x\udcff"}
    record.id.encode()


class TestCarriedFields:
    def test_all_by_default_in_their_order(self):
        assert list(carried({"b": 1, "a": 2}, None)) == ["b", "a"]

    def test_chosen_ones_are_there_in_every_row(self):
        assert carried({"b": 1, "a": 2}, ("a", "other")) == {"a": 2, "other": None}
        assert carried({"b": 1}, ()) == {}

    def test_are_json_and_text_that_files_can_hold(self):
        found = carried({"list": ({"a\udcff": "b\udcff"}, 1.5, True, None)}, None)
        assert found == {"list": [{r"a\udcff": r"b\udcff"}, 1.5, True, None]}
        json.dumps(found, ensure_ascii=False).encode()


def test_the_schema_has_the_columns_in_their_order():
    record = Record.of(answered(images=2), LABELS)
    schema = record_schema()
    assert schema.names == list(record.to_json())
    table = pa.Table.from_pylist([record.to_json() | {"fields": "{}"}], schema)
    table.validate(full=True)


def test_the_method_is_told_by_what_was_asked_for():
    asked = Compression("globalcom2", 0.25, parameters={"tau": 5.0})
    text = method_text(asked, Pruning("fastv", 0.5), "original")
    assert json.loads(text) == {
        "compression": {
            "layout": "spatial",
            "method": "globalcom2",
            "parameters": {"tau": 5.0},
            "retention_ratio": 0.25,
        },
        "position_ids": "original",
        "pruning": {"method": "fastv", "retention_ratio": 0.5},
    }
    assert json.loads(method_text(None, None, "renumbered")) == {"position_ids": "renumbered"}
