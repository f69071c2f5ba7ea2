"""The efficiency table of a small model: counts are right, and times are present."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM
from visionsplit.families.checkpoint import Checkpoint

from benchmarks.efficiency.__main__ import main
from benchmarks.efficiency.conditions import conditions, known_methods
from benchmarks.efficiency.flops import LlamaShape
from benchmarks.efficiency.language import ImageRows, LanguageModel, by_library, decode
from benchmarks.efficiency.measure import STAGES, Row, measure
from benchmarks.efficiency.pipeline import TEXT_AFTER, TEXT_BEFORE, Pipeline
from benchmarks.efficiency.tables import time_table, work_table
from tests.checkpoints import tiny_checkpoint

pytestmark = pytest.mark.unit

LAYERS, KV_WIDTH = 8, 24  # of the tiny language model: 2 heads of 12 for keys and as many for values
TEXT = TEXT_BEFORE + TEXT_AFTER
CELLS, NEWLINES = 16, 8  # of a tile, and of 2 x 2 tiles
FLOAT32 = 4


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("tiny"), language={"num_hidden_layers": LAYERS})
    return Pipeline(Checkpoint(str(folder)), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def rows(pipeline: Pipeline) -> dict[str, Row]:
    """By method: every one at 50%."""
    chosen = conditions(LAYERS, None, [0.5])
    assert not chosen.left_out
    found = measure(pipeline, chosen.rows, repeats=2, new_tokens=3, deadline=math.inf)
    return {row.condition.name: row for row in found}


def test_rows_for_which_no_time_is_left_are_left_out_but_for_the_first(pipeline: Pipeline) -> None:
    chosen = conditions(LAYERS, ["uniform"], [0.5, 0.25])
    rows = measure(pipeline, chosen.rows, repeats=5, new_tokens=2, deadline=-math.inf)
    assert [(row.condition.name, row.repeats) for row in rows] == [("none", 1)]


def test_every_method_of_both_services_has_a_row(rows: dict[str, Row]) -> None:
    assert list(rows) == ["none", *known_methods()]


def test_all_tokens_and_newlines_enter_without_compression(rows: dict[str, Row]) -> None:
    assert rows["none"].outcome.vision_tokens == 5 * CELLS + NEWLINES
    assert rows["none"].outcome.layer_tokens == (5 * CELLS + NEWLINES + TEXT,) * LAYERS


def test_the_share_of_each_tile_and_all_newlines_enter_with_compression(rows: dict[str, Row]) -> None:
    assert rows["uniform"].outcome.layer_tokens == (5 * CELLS // 2 + NEWLINES + TEXT,) * LAYERS


def test_pruning_inside_sees_every_token_first_and_its_share_later(rows: dict[str, Row]) -> None:
    full, kept = 5 * CELLS + NEWLINES, (5 * CELLS + NEWLINES) // 2
    assert rows["fastv"].outcome.vision_tokens == full
    assert rows["fastv"].outcome.layer_tokens == (full + TEXT,) * 2 + (kept + TEXT,) * (LAYERS - 2)


def test_pruning_inside_by_quotas_keeps_what_the_encoder_would_and_every_newline(rows: dict[str, Row]) -> None:
    guided, guide = rows["globalcom2+fastv"].outcome, rows["globalcom2"].outcome
    assert guided.vision_tokens == 5 * CELLS + NEWLINES
    assert guided.layer_tokens[2:] == guide.layer_tokens[2:]


@torch.inference_mode()
def test_the_librarys_own_forward_pass_reads_and_answers_like_layer_by_layer() -> None:
    torch.manual_seed(0)
    shape = LlamaShape(layers=3, width=32, intermediate=48, heads=4, vocabulary=100)
    model = AutoModelForCausalLM.from_config(shape.config(), attn_implementation="sdpa").eval()
    embeddings = torch.randn(20, shape.width)
    image = ImageRows(start=5, tiles=torch.zeros(10, dtype=torch.int64))
    by_layers, whole = LanguageModel(model).prefill(embeddings, image, None), by_library(model, embeddings)
    assert by_layers.layer_tokens == whole.layer_tokens == (20, 20, 20)
    assert by_layers.cache_bytes == whole.cache_bytes
    assert decode(by_layers, 4) == decode(whole, 4)


def test_the_cache_holds_keys_and_values_of_every_layers_tokens(rows: dict[str, Row]) -> None:
    for row in rows.values():
        assert row.outcome.cache_bytes == sum(row.outcome.layer_tokens) * 2 * KV_WIDTH * FLOAT32


def test_a_shorter_prompt_is_less_work(rows: dict[str, Row]) -> None:
    full = rows["none"].work
    for name in known_methods():
        assert rows[name].work.prefill < full.prefill
        assert rows[name].work.encoder >= full.encoder


def test_every_stage_is_timed(rows: dict[str, Row]) -> None:
    for row in rows.values():
        assert set(row.stage_seconds) == set(STAGES)
        assert all(seconds > 0 for seconds in row.stage_seconds.values())
        assert row.image_seconds > 0
        assert row.repeats == 2
        assert row.peak_bytes is None  # there is no GPU's allocator to ask


@pytest.mark.parametrize("relative", [False, True])
def test_tables_have_a_line_for_each_row_and_a_cell_for_each_column(rows: dict[str, Row], relative: bool) -> None:
    for table in (work_table(list(rows.values())), time_table(list(rows.values()), relative=relative)):
        header, _, *lines = table.splitlines()
        assert len(lines) == len(rows)
        assert {line.count("|") for line in lines} == {header.count("|")}
        assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == list(rows)


def test_times_are_shares_of_the_uncompressed_image_where_ratios_are_asked_for(rows: dict[str, Row]) -> None:
    cells = time_table([rows["none"]], relative=True).splitlines()[2].split(" | ")
    assert float(cells[2 + len(STAGES)]) == pytest.approx(100)


def test_an_unknown_method_is_refused_with_the_list_of_those_there_are() -> None:
    with pytest.raises(ValueError, match="no method 'nosuch' here; there are: globalcom2"):
        conditions(LAYERS, ["nosuch"], [0.5])


def test_options_that_cannot_be_measured_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    threads = str(torch.get_num_threads())
    assert main(["--new-tokens", "1", "--quick", "--threads", threads]) == 1
    assert "--new-tokens must be 2 at least" in capsys.readouterr().err


def test_a_shallow_model_names_what_it_cannot_prune() -> None:
    chosen = conditions(2, ["globalcom2", "pyramiddrop"], [0.5])
    assert [row.name for row in chosen.rows] == ["none", "globalcom2"]
    [reason] = chosen.left_out
    assert reason.startswith("pyramiddrop at 50%: ")
    assert "2 layers are too few" in reason


def test_the_command_prints_operations_work_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--threads", "1", "--methods", "uniform", "--repeats", "1", "--relative"]
    threads = torch.get_num_threads()
    try:
        assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "| 2880 (100%) | 41.70 |" in printed
    assert "| uniform | 10% | 94 |" in printed
    assert "images/s" not in printed
    assert "Not measured" not in printed
