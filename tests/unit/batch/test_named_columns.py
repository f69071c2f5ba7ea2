"""Columns that are named on the command line and must exist in the input."""

import json

import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.named_columns import check_columns
from visionsplit_batch.rows.rows import Content
from visionsplit_batch.runners import Work
from visionsplit_batch.sources import Columns

from tests.unit.batch.source_checks import opened, png
from tests.unit.batch.tables import write_csv, write_json_lines, write_parquet, write_saved, write_shard

ROWS = [{"title": "a"}, {"title": "b"}]
ARROW = {"title": ["a", "b"]}


@pytest.mark.parametrize(
    ("write", "name", "rows"),
    [
        (write_json_lines, "a.jsonl", ROWS),
        (write_csv, "a.csv", ROWS),
        (write_parquet, "a.parquet", ARROW),
        (write_saved, "saved", ARROW),
        (write_shard, "a.tar", ROWS),
    ],
)
def test_a_column_that_no_row_has_is_refused(tmp_path, write, name, rows):
    source = opened(write(rows, tmp_path / name))
    check_columns(source, ["title"], ["title"])
    with pytest.raises(InputError, match=r"--column: the input has no column 'titel' .*it has title"):
        check_columns(source, ["titel"], ())
    with pytest.raises(InputError, match=r"--prompt: the input has no column 'titel' .*write {{titel}}"):
        check_columns(source, (), ["titel"])
    with pytest.raises(InputError, match="no column 'image'"):
        check_columns(source, ["image"], ())


def test_columns_of_ids_and_formats_without_columns(tmp_path):
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(InputError, match=r"no column 'x' for {x}; it has none"):
        check_columns(opened(tmp_path), (), ["x"])
    source = opened(write_json_lines(ROWS, tmp_path / "a.jsonl"), columns=Columns(id="title"))
    with pytest.raises(InputError, match="no column 'title'"):
        check_columns(source, ["title"], ())
    (tmp_path / "o.jsonl").write_text(json.dumps({"custom_id": "1", "body": {"messages": []}}))
    check_columns(opened(tmp_path / "o.jsonl"), ["metadata"], ())


def test_doubled_braces_stand_for_the_text():
    work = Work("caption", prompts=("{title}: {{x}} and \\frac{1}{2}, {{{title}}}",))
    assert work.columns == {"title"}
    (question,) = work.questions(Content(fields={"title": "A"}))
    assert question.text == "A: {x} and \\frac{1}{2}, {{title}}"
