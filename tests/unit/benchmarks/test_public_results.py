"""Rows of the public benchmarks' table: what is run for them, what is counted, and what is printed."""

import json
import shlex
from pathlib import Path

import pytest
from visionsplit.options.messages import compression_to_proto
from visionsplit_client import Usage

from benchmarks.public import run, table
from benchmarks.public.rows import BENCHMARKS, POSTER_ROWS, ROWS, UPPER_BOUND
from benchmarks.public.settings import Settings
from benchmarks.public.tally import Tally
from encoder_service.compression.methods import METHODS
from llm_service.pruning import PRUNING_METHODS


def usage(*, vision: int, before: int, newlines: int, text: int, generated: int = 1) -> Usage:
    return Usage(vision + newlines + text, text, vision, newlines, before, generated, 0)


def test_tokens_are_counted_by_task_and_together(tmp_path: Path) -> None:
    tally = Tally()
    tally.add("pope", 1, usage(vision=100, before=1000, newlines=20, text=30), ())
    # Layers 0 and 1 see everything, 2 and 3 half of the image's 220 tokens.
    tally.add("pope", 1, usage(vision=200, before=1000, newlines=20, text=10, generated=3), (230, 230, 120, 120))
    tally.add("gqa", 0, usage(vision=0, before=0, newlines=0, text=10), ())
    tally.write(tmp_path / "row" / "tokens.json", {"model": "mini"})
    kept = json.loads((tmp_path / "row" / "tokens.json").read_text())
    assert kept["model"] == "mini"
    assert kept["tasks"]["pope"] == {
        "questions": 2,
        "images": 2,
        "mean_llm_vision_tokens": 170.0,
        "mean_newline_tokens": 20.0,
        "mean_text_tokens": 20.0,
        "mean_generated_tokens": 2.0,
        "mean_vision_tokens_before": 1020.0,
        "retention": 0.15,
        "retention_with_newlines": pytest.approx(340 / 2040),
        "mean_vision_tokens_over_layers": (120 + 165) / 2,
        "retention_over_layers": pytest.approx(285 / 2040),
    }
    assert kept["tasks"]["gqa"]["retention"] is None
    assert kept["tasks"]["all"]["questions"] == 3
    assert kept["tasks"]["all"]["mean_llm_vision_tokens"] == pytest.approx(340 / 3)
    assert tally.lines()[0] == (
        "pope: 2 questions, 2 images; 170.0 vision tokens (newlines included) entered the language model, of 1020.0; "
        "15.0% kept without newlines, 14.0% over the layers with them"
    )


def commands(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """What a dry run prints, by row."""
    assert run.main(["--dry-run", *arguments]) == 0
    lines = [line.split(": ", 1) for line in capsys.readouterr().out.splitlines()]
    return {name: shlex.split(command) for name, command in lines}


def model_args(command: list[str]) -> dict[str, str]:
    text = command[command.index("--model_args") + 1]
    return dict(part.split("=", 1) for part in text.split(","))


def test_every_row_is_a_run_of_lmms_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(capsys, "--out", str(tmp_path), "--encoder", "h:1", "g:2", "--layout", "reference", "--limit", "8")
    assert list(found) == list(POSTER_ROWS)
    for name, command in found.items():
        assert command[1:5] == ["-m", "benchmarks.public.lmms", "--model", "visionsplit"]
        assert command[command.index("--output_path") + 1] == str(tmp_path / name)
        assert command[command.index("--tasks") + 1] == ",".join(one.task for one in BENCHMARKS)
        assert command[-2:] == ["--limit", "8"]
        assert model_args(command)["encoder"] == "h:1;g:2"
        assert model_args(command)["tokens_file"] == str(tmp_path / name / "tokens.json")
    plain = model_args(found["globalcom2-10"])
    assert (plain["method"], plain["retention_ratio"], plain["layout"]) == ("globalcom2", "0.1", "reference")
    # An uncompressed prompt is the model's own, whatever the layout of the compressed ones.
    assert {"method", "layout", "pruning"}.isdisjoint(model_args(found[UPPER_BOUND]))
    fastv = model_args(found["fastv-10"])
    assert (fastv["pruning"], fastv["pruning_ratio"]) == ("fastv", "0.1")
    assert {"method", "layout", "retention_ratio"}.isdisjoint(fastv)
    quotas = model_args(found["globalcom2-quotas-fastv-10"])
    assert (quotas["quotas_only"], quotas["retention_ratio"], quotas["pruning"]) == ("true", "0.1", "fastv")


def test_rows_and_tasks_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(capsys, "--out", str(tmp_path), "--rows", "fastervlm-10", "--tasks", "gqa", "pope")
    assert list(found) == ["fastervlm-10"]
    assert found["fastervlm-10"][found["fastervlm-10"].index("--tasks") + 1] == "gqa,pope"


def test_every_method_of_the_encoder_has_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{method}-10" for method in METHODS if method not in ("none", "cdpruner")]
    found = commands(capsys, "--out", str(tmp_path), "--rows", *names)
    assert {model_args(command)["method"] for command in found.values()} == set(METHODS) - {"none", "cdpruner"}
    assert {model_args(command)["retention_ratio"] for command in found.values()} == {"0.1"}


def test_the_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ROWS)
    assert run.main([]) == 2


def test_a_row_with_results_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / "fastv-10", {})
    asked = ["--out", str(tmp_path), "--rows", "fastv-10", "--dry-run"]
    assert run.main(asked) == 0
    assert capsys.readouterr().out == "fastv-10: has results already\n"
    assert run.main([*asked, "--again"]) == 0
    assert "benchmarks.public.lmms" in capsys.readouterr().out


def test_every_row_has_settings_that_can_be_sent() -> None:
    for row in ROWS.values():
        settings = row.settings(Settings())
        assert compression_to_proto(settings.compression).method
        assert (settings.llm_pruning is None) == ("pruning" not in row.arguments)


def test_the_rows_methods_exist() -> None:
    asked = [row.settings(Settings()) for row in ROWS.values()]
    assert {one.method for one in asked} <= set(METHODS)
    assert {one.pruning for one in asked if one.pruning is not None} == set(PRUNING_METHODS)
    assert all(PRUNING_METHODS[one.pruning].takes_quotas for one in asked if one.pruning and one.quotas_only)


def results(folder: Path, scores: dict[str, dict[str, float]], date: str = "20260101_000000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{date}_results.json").write_text(json.dumps({"results": scores}))


UPPER = {
    "gqa": {"exact_match,none": 0.64, "exact_match_stderr,none": 0.01, "alias": "gqa"},
    "pope": {"pope_f1_score,none": 0.8, "pope_accuracy,none": 0.7},
    "mme": {"mme_perception_score,none": 1500.0, "mme_cognition_score,none": 300.0},
}


def test_the_table_gives_scores_tokens_and_the_mean_share_of_the_upper_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results(tmp_path / UPPER_BOUND, UPPER)
    half = {
        "gqa": {"exact_match,none": 0.32},
        "pope": {"pope_f1_score,none": 0.8},
        "mme": {"mme_perception_score,none": 1200.0, "mme_cognition_score,none": 150.0},
    }
    results(tmp_path / "globalcom2-10", half)
    tokens = {"tasks": {"all": {"mean_llm_vision_tokens": 330.25, "mean_vision_tokens_over_layers": 330.25}}}
    (tmp_path / "globalcom2-10" / "tokens.json").write_text(json.dumps(tokens))
    assert table.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "| retention | method | LLM vision tokens | mean over layers "
        "| GQA | VizWiz | SQA | MMB | POPE | VQA-T | MME | MM-Vet | average |"
    )
    assert printed[2] == (
        "| 100% | LLaVA-NeXT, all tokens | – | – | 64.0 | – | – | – | 80.0 | – | 1800.0 | – | 100.0% (of 3) |"
    )
    # Shares 50%, 100% and 1350/1800 = 75%.
    assert printed[3] == (
        "| 10% | GlobalCom2 | 330.2 | 330.2 | 32.0 | – | – | – | 80.0 | – | 1350.0 | – | 75.0% (of 3) |"
    )
    assert table.main([str(tmp_path), "--mme", "perception"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "| MME (perception) |" in printed[0]
    assert "| 1200.0 | – | 76.7% (of 3) |" in printed[3]  # 50%, 100%, 80%


def test_a_later_run_replaces_its_tasks_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / UPPER_BOUND, UPPER)
    results(tmp_path / UPPER_BOUND, {"gqa": {"exact_match,none": 0.5}}, date="20260102_000000")
    assert table.main([str(tmp_path)]) == 0
    assert "| 50.0 | – | – | – | 80.0 |" in capsys.readouterr().out


def test_scores_without_an_upper_bound_have_no_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / "fastv-10", UPPER)
    assert table.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("| 1800.0 | – | – |\n")


def test_an_empty_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main([str(tmp_path)]) == 1
    assert "no results" in capsys.readouterr().err
