"""The poster's tables: their conditions exist, and a run becomes their rows."""

from dataclasses import replace

import pytest

from benchmarks.accuracy import TABLES, Table, main, merged, render
from encoder_service.compression import METHODS
from encoder_service.compression import compose as compose_compression
from llm_service.pruning import compose as compose_pruning
from training.dialogue.questions import Topic
from training.evaluation.conditions import parse_condition
from training.evaluation.results import Answer, Run

LAYERS = 6  # of the shipped model


@pytest.mark.parametrize("table", [table for tables in TABLES.values() for table in tables], ids=lambda one: one.title)
def test_every_row_can_be_asked_for(table: Table) -> None:
    assert {"none", table.against} <= set(table.conditions)
    assert len(set(table.conditions)) == len(table.conditions)
    for text in table.conditions:
        condition = parse_condition(text)
        assert condition.spec is not None
        compose_compression(condition.spec)
        if condition.pruning is not None:
            compose_pruning(condition.pruning, LAYERS, quotas=condition.spec.quotas_only)


def test_the_main_tables_have_every_method_of_the_encoder():
    for table in TABLES["main"]:
        shown = {parse_condition(text).spec.method for text in table.conditions}
        assert shown == set(METHODS) - {"cdpruner"}, "cdpruner reads the question and asks for another encoder"


def answers(condition: str, image: int, score: float, tokens: int, layer_tokens: float) -> list[Answer]:
    """One question on every topic."""
    return [
        Answer(condition, image, (1, 2), 1.0, tokens, layer_tokens, topic, "Which?", "a", "b", score, None)
        for topic in Topic
        if topic is not Topic.CAPTION
    ] + [
        Answer(
            condition, image, (1, 2), 1.0, tokens, layer_tokens, Topic.CAPTION, "Describe.", "a", "b", score, score / 2
        )
    ]


def run_of(*images: int) -> Run:
    given = {"none": (1.0, 400, 400.0), "globalcom2@0.1": (0.5, 40, 40.0), "none+fastv@0.1": (0.75, 400, 100.0)}
    made = [answer for name, values in given.items() for image in images for answer in answers(name, image, *values)]
    return Run({"model": "mini"}, tuple(given), tuple(made))


def test_rows_give_tokens_scores_and_differences() -> None:
    table = Table("Title", "Note.", ("none", "globalcom2@0.1", "none+fastv@0.1"), "globalcom2@0.1")
    lines = render(merged([run_of(0, 1), run_of(2)]), [table]).splitlines()
    assert "3 held-out images" in lines[0]
    rows = {
        cells[1]: cells[2:-1]
        for cells in (line.split(" | ") for line in lines)
        if len(cells) > 3
        for cells in [["", *cells, ""]]
    }
    fastv = rows["| none+fastv@0.1"]
    assert fastv[:3] == ["400", "100", "25.0"]
    assert fastv[3:9] == ["75.0"] * 6
    assert fastv[-3:] == ["75.0 (75.0 to 75.0)", "75.0 (75.0 to 75.0)", "+25.0 (+25.0 to +25.0) |"]
    assert rows["| globalcom2@0.1"][-1] == "– |"


def test_runs_that_do_not_belong_together_are_not_merged() -> None:
    with pytest.raises(ValueError, match="same conditions on different images"):
        merged([run_of(0), run_of(0)])
    with pytest.raises(ValueError, match="same conditions on different images"):
        merged([run_of(0), replace(run_of(1), conditions=("none",))])


def test_the_command_prints_earlier_runs(tmp_path, capsys) -> None:
    for number in (0, 1):
        scores = [answer for name in ("none", "globalcom2@0.1") for answer in answers(name, number, 0.5, 40, 40.0)]
        names = tuple(dict.fromkeys(name for table in TABLES["budgets"] for name in table.conditions))
        more = [answer for name in names[2:] for answer in answers(name, number, 0.25, 40, 40.0)]
        Run({}, names, tuple(scores + more)).write(tmp_path / str(number))
    assert main(["--tables", "budgets", "--from", str(tmp_path / "0"), str(tmp_path / "1")]) == 0
    printed = capsys.readouterr().out
    assert "first ablation" in printed
    assert "| globalcom2:budget=uniform@0.1 | 40 |" in printed
