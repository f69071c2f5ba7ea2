"""The command-line tool with scripted services."""

import json
import signal
import subprocess
import sys
import time

import pytest
from visionsplit import errors
from visionsplit_cli import main
from visionsplit_client import Compression, EncodedImage

from tests.unit.client.fakes import GRID, LAYERS, WORDS

ANSWER = "".join(WORDS)


def test_caption_prints_captions_and_totals(where, image_path, capsys):
    assert main(["caption", str(image_path), str(image_path), "--ratio", "0.25", *where]) == 0
    out = capsys.readouterr().out
    before, after = sum(GRID.valid_counts()), sum(int(count * 0.25) for count in GRID.valid_counts())
    assert out.count(ANSWER) == 2
    assert out.count(f"  {before} -> {after} vision tokens, ") == 2
    assert out.splitlines()[-1].startswith(f"2 images: {2 * before} -> {2 * after} vision tokens (75% less), ")


def test_one_bad_image_does_not_stop_the_others(where, image_path, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    assert main(["caption", str(bad), "missing.png", str(image_path), *where]) == 1
    out, err = capsys.readouterr()
    assert out.count(ANSWER) == 1
    assert out.splitlines()[-1].startswith("1 image: ")
    assert out.splitlines()[-1].endswith(", 2 failed")
    assert f"visionsplit: {bad}: cannot be decoded" in err
    assert "missing.png: No such file" in err
    assert "Traceback" not in err


def test_caption_json(where, image_path, capsys):
    assert main(["caption", str(image_path), "missing.png", "--json", *where]) == 1
    document = json.loads(capsys.readouterr().out)
    good, bad = document["images"]
    assert good["generation"]["text"] == ANSWER
    assert good["error"] is None
    assert bad["generation"] is None
    assert bad["error"] == {"class": "FileNotFoundError", "message": "missing.png: No such file or directory"}
    assert document["totals"]["images"] == 1
    assert document["totals"]["failed"] == 1


def test_caption_sends_its_prompt(where, image_path, services):
    main(["caption", str(image_path), *where])
    main(["caption", str(image_path), "--prompt", "What is this?", *where])
    texts = [request.prompt.chat.messages[0].parts[1].text for request in services.encoder.script.requests]
    assert texts == ["Describe the image.", "What is this?"]


def test_ask_prints_the_answer_alone_on_stdout(where, image_path, capsys):
    assert main(["ask", str(image_path), "How many?", *where]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER + "\n"
    assert "vision tokens" in err


def test_ask_json(where, image_path, capsys):
    assert main(["ask", str(image_path), "How many?", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["text"] == ANSWER
    assert document["images"][0]["grid"]["columns"] == 2


def test_options_reach_the_request(where, image_path, services):
    arguments = "--method globalcom2 --ratio 0.1 --layout reference --score local --merging near --parameter tau=5"
    sampling = "--max-new-tokens 5 --temperature 0.7 --top-p 0.9 --top-k 4 --seed 3 --stop x --repetition-penalty 1.1"
    arguments += " --data-type int8"
    assert main(["ask", str(image_path), "?", *arguments.split(), *sampling.split(), *where]) == 0
    (request,) = services.encoder.script.requests
    compression, decoding = request.compression, request.sampling
    assert (compression.method, compression.retention_ratio, compression.layout) == ("globalcom2", 0.1, 2)
    assert (compression.merging, compression.HasField("budget")) == ("near", False)
    assert (compression.score, dict(compression.parameters), request.data_type) == ("local", {"tau": 5.0}, 4)
    assert (decoding.max_new_tokens, decoding.temperature, decoding.top_p, decoding.top_k) == (5, 0.7, 0.9, 4)
    assert (decoding.seed, list(decoding.stop), decoding.repetition_penalty) == (3, ["x"], 1.1)


def test_guidance_reaches_the_request(where, image_path, services, tmp_path):
    asked = ["--method", "cdpruner", "--ratio", "0.5", *where]
    assert main(["ask", str(image_path), "?", "--guidance", "the red, round ball", *asked]) == 0
    assert main(["ask", str(image_path), "?", *asked]) == 0
    assert main(["ask", str(image_path), "?", "--guidance", "", *asked]) == 0
    output = tmp_path / "tokens.safetensors"
    assert main(["encode", str(image_path), "-o", str(output), "--guidance", "a ball", *asked]) == 0
    sent = [request.compression for request in services.encoder.script.requests]
    assert [one.guidance for one in sent] == ["the red, round ball", "", "", "a ball"]
    assert [one.HasField("guidance") for one in sent] == [True, False, True, True]
    assert EncodedImage.load(output).compression == Compression("cdpruner", 0.5, guidance="a ball")


@pytest.mark.parametrize("command", [["ask", "?"], ["caption"]], ids=lambda words: words[0])
def test_pruning_reaches_the_request_and_its_cost_the_user(command, where, image_path, services, capsys):
    arguments = ["--prune", "fastv", "--prune-ratio", "0.25", "--prune-set", "layer=3", "--position-ids", "original"]
    arguments += ["--ratio", "0.1", "--quotas-only"]
    assert main([command[0], str(image_path), *command[1:], *arguments, *where]) == 0
    (request,) = services.encoder.script.requests
    pruning = request.prefill.pruning
    assert (pruning.method, pruning.retention_ratio, dict(pruning.parameters)) == ("fastv", 0.25, {"layer": 3.0})
    assert request.prefill.position_ids == 2
    assert (request.compression.method, request.compression.quotas_only) == ("globalcom2-diverse", True)
    out, err = capsys.readouterr()
    assert "prompt tokens by layer: 29 in 2 layers, 14 in 3 layers\n" in (err if command[0] == "ask" else out)


def test_pruning_in_json(where, image_path, capsys):
    assert main(["ask", str(image_path), "?", "--prune", "fastv", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["layer_tokens"] == list(LAYERS)
    assert main(["caption", str(image_path), "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["generation"]["layer_tokens"] == []


def test_stored_tokens_keep_their_quotas_for_a_later_pruning(where, image_path, services, tmp_path, capsys):
    output = tmp_path / "tokens.safetensors"
    assert main(["encode", str(image_path), "-o", str(output), "--ratio", "0.25", "--quotas-only", *where]) == 0
    assert main(["ask", "--tokens", str(output), "What?", "--prune", "fastv", *where]) == 0
    assert "by layer" in capsys.readouterr().err
    assert services.llm.images[0].quotas == tuple(int(count * 0.25) for count in GRID.valid_counts())
    (header,) = services.llm.script.requests
    assert header.prefill.pruning.method == "fastv"


def test_encode_and_ask_about_the_tokens(where, image_path, services, tmp_path, capsys):
    output = tmp_path / "tokens.safetensors"
    assert (
        main(["encode", str(image_path), "-o", str(output), "--ratio", "0.5", "--data-type", "bfloat16", *where]) == 0
    )
    stored = EncodedImage.load(output)
    assert stored.data_type == "bfloat16"
    capsys.readouterr()
    assert main(["ask", "--tokens", str(output), "What?", *where]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert services.llm.images[0].features == stored.tokens.features


def test_a_failed_call_is_one_line_and_exit_code_1(where, image_path, services, capsys):
    services.encoder.script.failures = [errors.PromptTooLongError("5000 tokens do not fit")]
    assert main(["ask", str(image_path), "?", *where]) == 1
    assert capsys.readouterr().err == "visionsplit: 5000 tokens do not fit\n"


@pytest.mark.parametrize("command", [["ask", "?"], ["encode", "-o", "tokens.safetensors"]], ids=lambda words: words[0])
def test_a_failed_call_is_json_where_json_is_asked_for(
    command, where, image_path, services, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    services.encoder.script.failures = [errors.InvalidImageError("image 0: not an image")]
    assert main([command[0], str(image_path), *command[1:], "--json", *where]) == 1
    expected = {"error": {"class": "InvalidImageError", "message": f"{image_path}: not an image"}}
    assert json.loads(capsys.readouterr().out) == expected


def test_several_images_go_by_their_names(where, image_path, services, tmp_path, capsys):
    other = tmp_path / "other.png"
    other.write_bytes(image_path.read_bytes())
    assert main(["ask", str(image_path), str(other), "?", *where]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[0].startswith(f"{image_path}: 224 vision tokens, ")
    assert err[1].startswith(f"{other}: 224 vision tokens, ")
    services.encoder.script.failures = [errors.InvalidImageError("image 1: cut off")]
    assert main(["ask", str(image_path), str(other), "?", *where]) == 1
    assert capsys.readouterr().err == f"visionsplit: {other}: cut off\n"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (errors.InvalidCompressionError("retention_ratio 0.001 keeps no token"), "--ratio 0.001 keeps no token"),
        (errors.InvalidCompressionError("it needs guidance"), "it needs --guidance"),
        (errors.InvalidCompressionError("unknown method 'retention_ratio'"), "unknown method 'retention_ratio'"),
        (errors.InvalidPruningError("'fastv' needs a retention_ratio"), "'fastv' needs a --prune-ratio"),
        (errors.InvalidSamplingError("top_p 2.0 is not in (0, 1]"), "--top-p 2.0 is not in (0, 1]"),
        (errors.InvalidTokensError("retention_ratio"), "retention_ratio"),
    ],
)
def test_what_the_services_say_of_a_field_names_its_option(error, shown, where, image_path, services, capsys):
    services.encoder.script.failures = [error]
    assert main(["ask", str(image_path), "?", *where]) == 1
    assert capsys.readouterr().err == f"visionsplit: {shown}\n"


def test_one_image_needs_no_name(where, image_path, capsys):
    assert main(["ask", str(image_path), "?", "--ratio", "0.5", *where]) == 0
    assert " -> " in capsys.readouterr().err.splitlines()[0]
    main(["ask", str(image_path), "?", *where])
    assert capsys.readouterr().err.splitlines()[0].startswith("224 vision tokens, ")


def test_a_ratio_alone_means_the_default_method(where, image_path, services):
    assert main(["caption", str(image_path), "--ratio", "0.5", *where]) == 0
    assert main(["caption", str(image_path), "--method", "none", "--layout", "reference", *where]) == 0
    first, second = (request.compression for request in services.encoder.script.requests)
    assert (first.method, first.retention_ratio) == ("globalcom2-diverse", 0.5)
    assert (second.method, second.HasField("retention_ratio")) == ("none", False)


def test_whether_another_method_needs_a_ratio_is_the_encoders_to_say(where, image_path, services):
    for options in (["--method", "finds_it_itself"], ["--method", "globalcom2", "--budget", "finds_it_itself"]):
        assert main(["caption", str(image_path), *options, *where]) == 0
    assert not any(request.compression.HasField("retention_ratio") for request in services.encoder.script.requests)


def test_where_nothing_was_saved_there_is_a_hint_unless_that_was_asked_for(where, image_path, capsys):
    assert main(["caption", str(image_path), str(image_path), *where]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith(f"2 images: {2 * sum(GRID.valid_counts())} vision tokens, ")
    assert "% less" not in out
    assert "--ratio 0.25" in err
    assert main(["caption", str(image_path), "--ratio", "1", *where]) == 0
    out, err = capsys.readouterr()
    assert out.count(f"{sum(GRID.valid_counts())} vision tokens") == 1
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["caption"],
        ["ask", "a.png", "?", "--layout", "diagonal"],
        ["ask", "a.png", "?", "--parameter", "tau"],
        ["ask", "a.png", "?", "--timeout", "-1"],
        ["ask", "a.png", "?", "--tokens", "b.safetensors"],
        ["ask", "--tokens", "b.safetensors", "--ratio", "0.5", "?"],
        ["ask", "--ratio", "0.1", "Is there a rocket?"],
        ["ask", "--data-type", "int8", "Is there a rocket?"],
        ["ask", "a.png", "?", "--layout", "reference"],
        ["ask", "a.png", "?", "--score", "local"],
        ["ask", "a.png", "?", "--parameter", "tau=5"],
        ["ask", "a.png", "?", "--prune-ratio", "0.5"],
        ["ask", "a.png", "?", "--prune-set", "layer=3"],
        ["ask", "a.png", "?", "--prune", "fastv", "--prune-set", "layer"],
        ["ask", "a.png", "?", "--position-ids", "random"],
        ["ask", "a.png", "?", "--quotas-only", "--prune", "fastv"],
        ["ask", "a.png", "?", "--quotas-only", "--ratio", "0.5"],
        ["caption", "a.png", "--quotas-only", "--ratio", "0.5"],
        ["caption", "a.png", "--prune-ratio", "0.5"],
        ["ask", "--tokens", "b.safetensors", "--quotas-only", "?"],
        ["encode", "a.png", "-o", "no-such-folder/tokens.safetensors"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["ask", "a.png", "?", "--timeout", "soon"], "--timeout: 'soon' is not a number"),
        (["ask", "a.png", "?", "--timeout", "0"], "--timeout: 0 is not a finite number above 0"),
        (["ask", "a.png", "?", "--parameter", "tau=hot"], "--parameter: 'hot' is not a number"),
        (["visualize", "a.png", "-o", "b.png", "--columns", "two"], "'two' is not a whole number of at least 1"),
        (["batch", "caption", "a", "-o", "b", "--in-flight", "many"], "'many' is not a whole number of at least 1"),
        (["batch", "caption", "a", "-o", "b", "--llms", "1-many"], "'many' is not a whole number of at least 1"),
        (["batch", "caption", "a", "-o", "b", "--max-failures", "-1"], "'-1' is not a whole number of at least 0"),
        *(
            ([*command, option.split("/")[0], wrong], f"{option}: {wrong} is not above 0 and at most 1")
            for wrong in ("0", "25", "-1", "nan", "1.0001")
            for command, option in (
                (["ask", "a.png", "?"], "--ratio/--retention-ratio"),
                (["encode", "a.png", "-o", "a.safetensors"], "--ratio/--retention-ratio"),
                (["ask", "a.png", "?", "--prune", "fastv"], "--prune-ratio"),
                (["visualize", "a.png", "-o", "b.png"], "--ratios"),
                (["batch", "encode", "a", "-o", "b"], "--ratio/--retention-ratio"),
            )
        ),
        (
            ["encode", "a.png", "-o", "tokens.bin"],
            "cannot write tokens.bin: tokens are stored in a file",
        ),
        (["visualize", "a.png", "-o", "b.png", "--ask", " "], "--ask is empty"),
        (
            ["visualize", "a.png", "-o", "b.png", "--compare", "hired@25"],
            "'hired@25' has the ratio 25; it must be above",
        ),
        (
            ["ask", "a.png", "?", "--method", "none", "--ratio", "0.5"],
            "--method none keeps every vision token; the ratio",
        ),
        (["visualize", "a.png", "-o", "b.png", "--method", "none", "--ratios", "0.5"], "--method none keeps every"),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name_before_any_service_is_asked(arguments, problem, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_without_a_command_the_help_is_printed(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "visualize" in capsys.readouterr().err


def test_a_forgotten_question_is_wrong_usage(image_path):
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(image_path)])
    assert ended.value.code == 2


def test_interrupt_is_exit_code_130_and_cancels_the_call(where, image_path, services):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    code = "import sys, visionsplit_cli as c; sys.exit(c.main())"
    command = [sys.executable, "-c", code, "ask", str(image_path), "?", *where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.read(4) == ANSWER[:4]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == ""
    while services.encoder.script.cancelled != 1:
        time.sleep(0.01)
