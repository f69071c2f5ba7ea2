"""The command-line tool against scripted services."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from visionsplit import errors
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import DataType
from visionsplit.wire.vision_tokens import VisionTokens
from visionsplit_client import EncodedImage
from visionsplit_client.cli import main
from visionsplit_client.cli._drawing import kept_masks

from tests.unit.client.fakes import GRID, WORDS, fake_features, kept_positions

ANSWER = "".join(WORDS)


@pytest.fixture
def where(services):
    return ["--encoder", services.encoder_address, "--llm", services.llm_address]


def test_caption_prints_captions_and_totals(where, picture, capsys):
    assert main(["caption", str(picture), str(picture), "--ratio", "0.25", *where]) == 0
    out = capsys.readouterr().out
    before, after = sum(GRID.valid_counts()), sum(int(count * 0.25) for count in GRID.valid_counts())
    assert out.count(ANSWER) == 2
    assert f"{before} -> {after} vision tokens" in out
    total = out.splitlines()[-1].split()
    assert total[:4] == ["total", str(2 * before), str(2 * after), "75%"]


def test_one_bad_image_does_not_stop_the_others(where, picture, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    assert main(["caption", str(bad), "missing.png", str(picture), *where]) == 1
    out, err = capsys.readouterr()
    assert out.count(ANSWER) == 1
    assert f"{bad}: image 0 cannot be decoded" in err
    assert "missing.png: No such file" in err
    assert "Traceback" not in err


def test_caption_json(where, picture, capsys):
    assert main(["caption", str(picture), "missing.png", "--json", *where]) == 1
    document = json.loads(capsys.readouterr().out)
    good, bad = document["images"]
    assert good["generation"]["text"] == ANSWER
    assert good["error"] is None
    assert bad["generation"] is None
    assert "No such file" in bad["error"]
    assert document["totals"]["images"] == 1
    assert document["totals"]["failed"] == 1


def test_caption_sends_its_prompt(where, picture, services):
    main(["caption", str(picture), *where])
    main(["caption", str(picture), "--prompt", "What is this?", *where])
    texts = [request.prompt.chat.messages[0].parts[1].text for request in services.encoder.script.requests]
    assert texts == ["Describe the image.", "What is this?"]


def test_ask_prints_the_answer_alone_on_stdout(where, picture, capsys):
    assert main(["ask", str(picture), "How many?", *where]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER + "\n"
    assert "vision tokens" in err


def test_ask_json(where, picture, capsys):
    assert main(["ask", str(picture), "How many?", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text"] == ANSWER
    assert document["images"][0]["grid"]["columns"] == 2


def test_options_reach_the_request(where, picture, services):
    arguments = "--method globalcom2 --ratio 0.1 --layout reference --score local --parameter tau=5 --data-type int8"
    sampling = "--max-new-tokens 5 --temperature 0.7 --top-p 0.9 --top-k 4 --seed 3 --stop x --repetition-penalty 1.1"
    assert main(["ask", str(picture), "?", *arguments.split(), *sampling.split(), *where]) == 0
    (request,) = services.encoder.script.requests
    compression, decoding = request.compression, request.sampling
    assert (compression.method, compression.retention_ratio, compression.layout) == ("globalcom2", 0.1, 2)
    assert (compression.score, dict(compression.parameters), request.data_type) == ("local", {"tau": 5.0}, 4)
    assert (decoding.max_new_tokens, decoding.temperature, decoding.top_p, decoding.top_k) == (5, 0.7, 0.9, 4)
    assert (decoding.seed, list(decoding.stop), decoding.repetition_penalty) == (3, ["x"], 1.1)


def test_encode_and_ask_about_the_tokens(where, picture, services, tmp_path, capsys):
    output = tmp_path / "tokens.safetensors"
    assert main(["encode", str(picture), "-o", str(output), "--ratio", "0.5", "--data-type", "bfloat16", *where]) == 0
    stored = EncodedImage.load(output)
    assert stored.data_type == "bfloat16"
    capsys.readouterr()
    assert main(["ask", "--tokens", str(output), "What?", *where]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert services.llm.images[0].features == stored.tokens.features


def test_info(where, capsys):
    assert main(["info", *where]) == 0
    assert "globalcom2 tau=10" in capsys.readouterr().out
    assert main(["info", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["encoder"]["default_compression"]["method"] == "none"
    assert set(document["health"].values()) == {"serving"}


def test_a_failed_call_is_one_line_and_exit_code_1(where, picture, services, capsys):
    services.encoder.script.failures = [errors.PromptTooLongError("5000 tokens do not fit")]
    assert main(["ask", str(picture), "?", *where]) == 1
    assert capsys.readouterr().err == "visionsplit: 5000 tokens do not fit\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["caption"],
        ["ask", "a.png", "?", "--layout", "diagonal"],
        ["ask", "a.png", "?", "--parameter", "tau"],
        ["ask", "a.png", "?", "--timeout", "-1"],
        ["ask", "a.png", "?", "--tokens", "b.safetensors"],
        ["ask", "--tokens", "b.safetensors", "--ratio", "0.5", "?"],
        ["visualize", "a.png", "-o", "b.png", "--ratios", "1,x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_a_forgotten_question_is_wrong_usage(picture):
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(picture)])
    assert ended.value.code == 2


def test_interrupt_is_exit_code_130_and_cancels_the_call(where, picture, services):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    code = "import sys, visionsplit_client.cli as c; sys.exit(c.main())"
    command = [sys.executable, "-c", code, "ask", str(picture), "?", *where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(4) == ANSWER[:4]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ""
    while services.encoder.script.cancelled != 1:
        time.sleep(0.01)


class TestVisualize:
    @pytest.fixture
    def sheet(self, where, tmp_path):
        """Panels of a plain white picture, so that brightness shows what was kept."""
        source, output = tmp_path / "white.png", tmp_path / "panels.png"
        Image.new("RGB", (500, 300), "white").save(source)
        assert main(["visualize", str(source), "-o", str(output), "--ratios", "1,0.25", *where]) == 0
        return np.asarray(Image.open(output).convert("L"))

    def test_bright_area_follows_the_ratio(self, sheet):
        left, right = np.split(sheet, 2, axis=1)
        bright = [(half == 255).sum() for half in (left, right)]
        assert bright[0] > 200_000
        assert bright[1] / bright[0] == pytest.approx(0.25, abs=0.04)

    def test_kept_cells_lie_where_their_positions_say(self, sheet):
        # The scripted encoder keeps the first cells of each tile: the upper rows of each crop are bright.
        panel = np.split(sheet, 2, axis=1)[1]
        rows, columns = np.where(panel == 255)
        crops = columns > 24 + 240 + 10
        height = rows[crops].max() - rows[crops].min()
        upper = rows[crops] - rows[crops].min() < height * 0.3
        lower = rows[crops] - rows[crops].min() > height * 0.7
        assert upper.any()
        assert lower.any()
        middle = ~upper & ~lower
        assert middle.mean() < 0.1


def test_masks_undo_the_tiling():

    grid = TileGrid.for_image(300, 500, rows=2, columns=2, side=8)
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
