"""`visionsplit visualize` with scripted services."""

import numpy as np
import pytest
from PIL import Image
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.v1 import vision_tokens_pb2
from visionsplit.wire.vision_tokens import VisionTokens
from visionsplit_cli import main
from visionsplit_cli.conditions import condition_name, parse_condition
from visionsplit_cli.visualize.drawing import COMPACT, LARGE, Header, Panel, draw_panels, kept_masks
from visionsplit_cli.visualize.header import draw_header
from visionsplit_cli.visualize.shares import CHANGED, share_colour
from visionsplit_client import Compression

from tests.unit.client.fakes import GRID, FakeEncoder, fake_features, kept_positions, start_encoder
from tests.unit.client.test_cli import ANSWER
from training.evaluation.conditions import parse_condition as parse_for_training


def below_header(sheet, image, header):
    """The panels, without the original above them."""
    head = draw_header(image, header, height=LARGE.header, gap=LARGE.gap, width=0)
    return np.asarray(sheet.convert("L"))[head.height + 2 * LARGE.margin :]


@pytest.fixture
def sheet(where, tmp_path):
    """Panels of a plain white image, so that brightness shows what was kept."""
    source, output = tmp_path / "white.png", tmp_path / "panels.png"
    white = Image.new("RGB", (500, 300), "white")
    white.save(source)
    assert main(["visualize", str(source), "-o", str(output), "--ratios", "1,0.25", *where]) == 0
    return below_header(Image.open(output), white, Header("white.png"))


def test_bright_area_follows_the_ratio(sheet):
    left, right = np.split(sheet, 2, axis=1)
    bright = [(half == 255).sum() for half in (left, right)]
    assert bright[0] > 200_000
    assert bright[1] / bright[0] == pytest.approx(0.25, abs=0.04)


def test_kept_cells_lie_where_their_positions_say(sheet):
    # The scripted encoder keeps the first cells of each tile: the upper rows of each crop are bright.
    panel = np.split(sheet, 2, axis=1)[1]
    rows, columns = np.where(panel == 255)
    crops = columns > LARGE.margin + LARGE.thumbnails[1] + LARGE.gap // 2
    height = rows[crops].max() - rows[crops].min()
    upper = rows[crops] - rows[crops].min() < height * 0.3
    lower = rows[crops] - rows[crops].min() > height * 0.7
    assert upper.any()
    assert lower.any()
    middle = ~upper & ~lower
    assert middle.mean() < 0.1


def test_masks_undo_the_tiling():
    grid = TileGrid.padded(300, 500, rows=2, columns=2, side=8)
    budgets, positions = kept_positions(grid, 1.0)
    tokens = VisionTokens(grid, tuple(budgets), fake_features(len(positions), DataType.FLOAT32), positions)
    thumbnail, canvas = kept_masks(tokens)
    assert thumbnail.all()
    assert canvas.shape == (grid.valid.height, grid.valid.width)
    assert canvas.all()
    chosen = [(0, 2, 3), (4, 1, 5)]
    only = VisionTokens(grid, (1, 0, 0, 0, 1), fake_features(2, DataType.FLOAT32), np.array(chosen, np.int32))
    thumbnail, canvas = kept_masks(only)
    assert np.argwhere(thumbnail).tolist() == [[2, 3]]
    assert np.argwhere(canvas).tolist() == [[8 + 1 - grid.valid.top, 8 + 5]]


def drawn(width, height, grid):
    budgets, positions = kept_positions(grid, 1.0)
    tokens = VisionTokens(grid, tuple(budgets), fake_features(len(positions), DataType.FLOAT32), positions)
    white, header = Image.new("RGB", (width, height), "white"), Header("strip")
    panels = below_header(draw_panels(white, [Panel("", tokens)], header), white, header)
    side = LARGE.thumbnails[0 if width > height else 1]  # the thumbnail is as high as the crops, within bounds
    return panels[:, LARGE.margin + side + LARGE.gap :]


@pytest.mark.parametrize(("width", "height", "rows", "columns"), [(3000, 45, 1, 3), (45, 3000, 3, 1), (70, 3000, 2, 2)])
def test_thin_strips_are_drawn_thick_enough_to_see(width, height, rows, columns):
    bright = drawn(width, height, TileGrid.padded(height, width, rows=rows, columns=columns, side=24)) == 255
    assert bright.any(axis=0).sum() > 15
    assert bright.any(axis=1).sum() > 15


def test_crops_without_a_token_are_said_and_not_drawn():
    grid = TileGrid.padded(9, 3000, rows=1, columns=3, side=8)
    assert grid.valid.area == 0
    assert not (drawn(3000, 9, grid) == 255).any()


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "panels.png", "--ratios", "foo"],
        ["-o", "panels.png", "--ratios", "1,x"],
        ["-o", "panels.xyz"],
        ["-o", "panels"],
        ["-o", "no-such-folder/panels.png"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_seen_before_anything_is_encoded(options, where, services, image_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["visualize", str(image_path), *options, *where])
    assert ended.value.code == 2
    assert options[-1].rpartition(",")[2] in capsys.readouterr().err
    assert not services.encoder.script.requests


def test_without_compression_there_is_one_panel(where, services, image_path, tmp_path):
    assert main(["visualize", str(image_path), "-o", str(tmp_path / "a.png"), "--method", "none", *where]) == 0
    (request,) = services.encoder.script.requests
    assert (request.compression.method, request.compression.retention_ratio) == ("none", 1.0)


def test_the_models_answers_stand_under_the_panels(where, services, image_path, tmp_path, capsys):
    plain, asked = tmp_path / "plain.png", tmp_path / "asked.png"
    options = ["--ratios", "1,0.25", *where]
    assert main(["visualize", str(image_path), "-o", str(plain), *options]) == 0
    assert not services.llm.script.requests
    capsys.readouterr()
    assert main(["visualize", str(image_path), "-o", str(asked), "--ask", "What is it?", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"globalcom2-diverse at {ratio}: {ANSWER}" for ratio in ("1", "0.25")
    ]
    questions = [request.prompt for request in services.llm.script.requests]
    assert len(questions) == 2
    assert all("What is it?" in str(question) for question in questions)
    with Image.open(plain) as without, Image.open(asked) as with_answers:
        assert with_answers.height > without.height + LARGE.title


def test_an_answer_that_is_another_one_has_another_colour():
    grid = TileGrid.padded(300, 500, rows=2, columns=2, side=8)
    budgets, positions = kept_positions(grid, 0.5)
    tokens = VisionTokens(grid, tuple(budgets), fake_features(len(positions), DataType.FLOAT32), positions)
    image = Image.new("RGB", (500, 300))
    changed = [
        [Panel("a", tokens, answer="A cat."), Panel("b", tokens, answer=answer, changed=answer != "A cat.")]
        for answer in ("A cat.", "A very long answer about a cat " * 20)
    ]
    for panels in changed:
        differ = panels[1].changed
        header = Header("cat.png", "What is it?", differ)
        head = draw_header(image, header, height=LARGE.header, gap=LARGE.gap, width=0)
        sheet = np.asarray(draw_panels(image, panels, header))[head.height + 2 * LARGE.margin :]
        assert bool((sheet == CHANGED).all(axis=2).any()) is differ


def test_a_second_spec_without_a_ratio_follows_the_first_where_counts_are_made_equal(
    uneven, image_path, tmp_path, capsys
):
    specs = ["--compare", "adaptive", "--compare", "globalcom2", "--equal"]
    table = compare(uneven[1], image_path, tmp_path, capsys, *specs)
    assert int(table["globalcom2"][1]) == count(0.3)


GREEDY, STUBBORN = 0.6, 20  # what the next encoder's methods of these names keep


class Uneven(FakeEncoder):
    """Its method "greedy" keeps less than the ratio says, "stubborn" always as much, "adaptive" takes no ratio."""

    @staticmethod
    def _header(compression):
        ratio = compression.retention_ratio if compression.HasField("retention_ratio") else 1.0
        kept = {"greedy": ratio * GREEDY, "stubborn": STUBBORN / GRID.valid_counts()[0], "adaptive": 0.3}
        changed = vision_tokens_pb2.Compression()
        changed.CopyFrom(compression)
        changed.retention_ratio = kept.get(compression.method, ratio)
        return FakeEncoder._header(changed)


@pytest.fixture
def uneven():
    encoder = Uneven()
    server, address = start_encoder(encoder)
    yield encoder, address
    server.stop(0).wait()


def count(ratio):
    """Tokens that the scripted encoder keeps at a ratio; tiles truncate."""
    return sum(int(cells * ratio) for cells in GRID.valid_counts())


def table_of(printed):
    """The cells of the printed table, by the first one of each row."""
    rows = [line.split("  ") for line in printed.splitlines()[3:]]
    return {row[0]: [cell.strip() for cell in row[1:] if cell] for row in rows}


def compare(address, image_path, tmp_path, capsys, *options):
    arguments = ["visualize", str(image_path), "-o", str(tmp_path / "a.png"), "--encoder", address, *options]
    assert main(arguments) == 0
    return table_of(capsys.readouterr().out)


def test_methods_are_shown_side_by_side_at_every_ratio(where, services, image_path, tmp_path, capsys):
    path = tmp_path / "a.png"
    specs = ["--compare", "none", "--compare", "globalcom2:tau=5", "--compare", "uniform@0.5"]
    assert main(["visualize", str(image_path), "-o", str(path), *specs, "--ratios", "0.25,0.1", *where]) == 0
    asked = [request.compression for request in services.encoder.script.requests]
    assert [(one.method, one.HasField("retention_ratio") and one.retention_ratio) for one in asked] == [
        ("none", False),
        ("globalcom2", 0.25),
        ("uniform", 0.5),
        ("none", False),
        ("globalcom2", 0.1),
        ("uniform", 0.5),
    ]
    assert dict(asked[1].parameters) == {"tau": 5}
    assert capsys.readouterr().out.startswith(f"{path}: 6 panels\n")
    with Image.open(path) as two, _of_columns(image_path, where, tmp_path, specs, 3) as three:
        assert three.width > 1.4 * two.width
        assert three.height < 0.75 * two.height


def _of_columns(image_path, where, tmp_path, specs, columns):
    path = tmp_path / f"{columns}.png"
    options = ["--ratios", "0.25,0.1", "--columns", str(columns)]
    assert main(["visualize", str(image_path), "-o", str(path), *specs, *options, *where]) == 0
    return Image.open(path)


def test_the_table_counts_what_enters_the_language_model(uneven, image_path, tmp_path, capsys):
    table = compare(
        uneven[1], image_path, tmp_path, capsys, "--compare", "a@0.5", "--compare", "b:layout=reference@0.5"
    )
    kept, rows = count(0.5), GRID.valid.height
    assert rows < GRID.canvas_height
    budgets = [int(cells * 0.5) for cells in GRID.valid_counts()]
    crops = " ".join(map(str, budgets[1:]))
    assert table["a"] == ["0.5", str(kept), str(kept + rows), str(budgets[0]), crops]
    assert table["b:layout=reference"][2] == str(kept + GRID.canvas_height)


def test_equal_counts_come_by_other_ratios(uneven, image_path, tmp_path, capsys):
    specs = ["--compare", "globalcom2", "--compare", "greedy", "--compare", "uniform", "--ratios", "0.25", "--equal"]
    table = compare(uneven[1], image_path, tmp_path, capsys, *specs)
    assert table["globalcom2"][0] == "0.25"
    assert table["uniform"][0] == "0.25"
    assert int(table["greedy"][1]) == count(0.25)
    adjusted, asked = table["greedy"][0].split(" ", 1)
    assert asked == "(asked: 0.25)"
    # Any ratio r with int(cells * 0.6 r) = int(cells * 0.25) for both sizes of tiles will do.
    assert float(adjusted) == pytest.approx(0.25 / GREEDY, rel=0.1)


def test_a_method_without_a_ratio_may_set_the_count(uneven, image_path, tmp_path, capsys):
    table = compare(
        uneven[1], image_path, tmp_path, capsys, "--compare", "adaptive", "--compare", "globalcom2@0.9", "--equal"
    )
    assert table["adaptive"][:2] == ["-", str(count(0.3))]
    assert int(table["globalcom2"][1]) == count(0.3)


def test_newlines_count_as_tokens_when_layouts_are_made_equal(uneven, image_path, tmp_path, capsys):
    specs = ["--compare", "a@0.5", "--compare", "b:layout=reference@0.5", "--equal"]
    table = compare(uneven[1], image_path, tmp_path, capsys, *specs)
    # Tiles of equal size gain and lose a token together, so the counts cannot always be quite equal.
    assert int(table["b:layout=reference"][2]) == pytest.approx(int(table["a"][2]), abs=GRID.num_tiles)
    assert int(table["b:layout=reference"][1]) < int(table["a"][1])


def test_a_method_that_does_not_follow_the_ratio_ends_the_search(uneven, image_path, tmp_path, capsys):
    encoder, address = uneven
    table = compare(address, image_path, tmp_path, capsys, "--compare", "a@0.9", "--compare", "stubborn@0.9", "--equal")
    assert table["stubborn"][0] == "0.9"
    assert len(encoder.script.requests) < 20


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "globalcom2@0.25",
        "globalcom2:score=local,budget=uniform,tau=5@0.1",
        "globalcom2:selection=even,layout=reference@1e-1",
        "fastervlm",
        "prumerge+:merging=none@0.25",
        "prumerge+",
    ],
)
def test_conditions_mean_what_they_mean_to_the_evaluation(text):
    mine, theirs = parse_condition(text), parse_for_training(text).spec
    for field in ("method", "retention_ratio", "score", "budget", "selection", "merging", "parameters"):
        assert getattr(mine, field) == getattr(theirs, field)
    assert mine.layout == theirs.layout


def test_a_condition_is_named_as_it_is_written():
    for text in ("none", "globalcom2:score=local,layout=reference,tau=5", "random:seed=3", "cdpruner:guidance=a ball"):
        assert condition_name(parse_condition(text)) == text
    assert parse_condition("cdpruner:guidance=a red ball@0.5") == Compression("cdpruner", 0.5, guidance="a red ball")
    assert parse_condition("uniform@0.5", "reference").layout == "reference"
    assert condition_name(Compression("globalcom2", 0.5, budget="uniform")) == "globalcom2:budget=uniform"


@pytest.mark.parametrize(
    "options",
    [
        ["--compare", "globalcom2:local@0.5"],
        ["--compare", "globalcom2:tau=high@0.5"],
        ["--compare", "globalcom2@much"],
        ["--compare", "globalcom2:layout=round@0.5"],
        ["--compare", ":tau=5@0.5"],
        ["--compare", "globalcom2@0.5+fastv@0.1"],
        ["--compare", "prumerge++fastv@0.1"],
        ["--compare", "a@0.5", "--columns", "0"],
    ],
    ids=" ".join,
)
def test_wrong_comparisons_are_seen_before_anything_is_encoded(options, where, services, image_path, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["visualize", str(image_path), "-o", str(tmp_path / "a.png"), *options, *where])
    assert ended.value.code == 2
    assert options[-1].rpartition("=")[2].partition("@")[0] in capsys.readouterr().err
    assert not services.encoder.script.requests


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--compare", "a@0.5", "--method", "b"], "SPEC"),
        (["--compare", "a@0.5", "--guidance", ""], "SPEC"),
        (["--equal"], "--compare"),
    ],
)
def test_options_that_contradict_a_comparison_are_refused(options, named, where, image_path, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["visualize", str(image_path), "-o", str(tmp_path / "a.png"), *options, *where])
    assert named in capsys.readouterr().err


def test_colours_tell_a_tile_above_the_image_from_one_below():
    grid = TileGrid.padded(80, 80, rows=1, columns=2, side=8)
    picks = [(0, 0, 0), (1, 3, 0), *((2, 3, column) for column in range(4))]
    tokens = VisionTokens(grid, (1, 1, 4), fake_features(6, DataType.FLOAT32), np.array(picks, np.int32))
    image, header = Image.new("RGB", (80, 80)), Header("black")
    head = draw_header(image, header, height=COMPACT.header, gap=COMPACT.gap, width=0)
    sheet = np.asarray(draw_panels(image, [Panel("", tokens)], header, sizes=COMPACT))
    whole = 6 / sum(grid.valid_counts())
    shares = [kept / cells for kept, cells in zip((1, 1, 4), grid.valid_counts(), strict=True)]
    less, more = (share_colour(share, whole) for share in shares[1:])
    assert less[2] > less[0]  # blue
    assert more[0] > more[2]  # orange
    panel = sheet[head.height + 2 * COMPACT.margin :]  # without the legend, which shows all colours
    left, right = ((panel == colour).all(axis=2).nonzero()[1] for colour in (less, more))
    thumbnail = COMPACT.margin + COMPACT.thumbnails[1]
    assert thumbnail < left[left > thumbnail + 6].min() < right.min()


def test_the_share_of_the_whole_image_is_grey_and_extremes_have_full_colours():
    red, green, blue = share_colour(0.25, 0.25)
    assert max(red, green, blue) - min(red, green, blue) < 10
    assert share_colour(0.0, 0.25) == share_colour(0.1, 0.25)
    assert share_colour(0.5, 0.25) == share_colour(1.0, 0.25)
    assert share_colour(0.25, 0.25) != share_colour(0.28, 0.25) != share_colour(0.31, 0.25)
