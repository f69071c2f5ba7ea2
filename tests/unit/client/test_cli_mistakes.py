"""Mistakes on the command line are reported, instead of being taken for another request."""

import base64
from pathlib import Path

import pytest
from visionsplit_cli import main

from tests.unit.client.fakes import WORDS


@pytest.fixture(autouse=True)
def folder(image_path, tmp_path, monkeypatch):
    """Has image.png, other.png, a file without an ending, and nothing else that the tests name."""
    monkeypatch.chdir(tmp_path)
    for name in ("other.png", "noending", "two words.png"):
        (tmp_path / name).write_bytes(image_path.read_bytes())


def wrong_usage(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize(
    "words",
    [
        ["image.png"],
        ["image.png", "other.png"],
        ["image.png", "two words.png"],
        ["image.png", "noending"],
        ["image.png", "absent.JPEG"],
        ["image.png", "https://127.0.0.1:1/photo"],
        ["image.png", "data:image/png;base64,AAAA"],
        ["image.png", "."],
        ["--tokens", "image.png", "other.png"],
        ["other.png", "--ratio", "0.5", "image.png"],
    ],
    ids=" ".join,
)
def test_a_forgotten_question(words, where, services, capsys):
    assert "a question is missing" in wrong_usage(["ask", *words, *where], capsys)
    assert not services.encoder.script.requests


@pytest.mark.parametrize("words", [[], ["image.png", ""], ["image.png", "  "], ["image.png", "--prompt", ""]])
def test_no_question(words, where, capsys):
    assert "question is" in wrong_usage(["ask", *words, *where], capsys)


@pytest.mark.parametrize("words", ["image.png What is it", "image.png other.png Which is red?", "What is it?"])
def test_forgotten_quotes(words, where, services, capsys):
    line = wrong_usage(["ask", *words.split(), *where], capsys)
    assert "is neither a file nor a URL; put a question of several words in quotes" in line
    assert not services.encoder.script.requests


@pytest.mark.parametrize(
    ("words", "images", "question"),
    [
        (["image.png", "--prompt", "other.png"], 1, "other.png"),
        (["--prompt", "What is it?", "image.png", "other.png"], 2, "What is it?"),
        (["image.png", "--ratio", "0.5", "What is it?"], 1, "What is it?"),
        (["image.png", "other.png", "What is in other.png"], 2, "What is in other.png"),
        (["noending", "Is it b.png?"], 1, "Is it b.png?"),
        (["--", "image.png", "-1 or 1?"], 1, "-1 or 1?"),
        (["image.png", "Why?"], 1, "Why?"),
        (["image.png", "v1.5"], 1, "v1.5"),
        (["image.png", "data: what do you see?"], 1, "data: what do you see?"),
    ],
)
def test_questions_that_are_meant(words, images, question, where, services):
    assert main(["ask", *where, *words]) == 0
    (request,) = services.encoder.script.requests
    assert len(request.images) == images
    assert request.prompt.chat.messages[0].parts[-1].text == question


def test_a_question_without_an_image_says_so(where, capsys):
    assert main(["ask", "What is it?", *where]) == 0
    out, err = capsys.readouterr()
    assert out == "".join(WORDS) + "\n"
    assert err.startswith("visionsplit: no image was given")


def test_an_image_that_is_not_there_is_a_failure_of_its_own(where, capsys):
    assert main(["ask", "absent.png", "What is it?", *where]) == 1
    assert capsys.readouterr().err == "visionsplit: absent.png: No such file or directory\n"


def test_captions_of_what_is_not_an_image(where, image_path, capsys):
    Path("folder").mkdir()
    assert main(["caption", "What is it?", "folder", "image.png", *where]) == 1
    out, err = capsys.readouterr()
    assert out.count("".join(WORDS)) == 1
    question, folder = err.splitlines()[:2]
    assert question.startswith("visionsplit: What is it?: No such file")
    assert "visionsplit ask" in question
    assert folder.startswith("visionsplit: folder: Is a directory; `visionsplit batch caption`")
    assert "the instruction of --prompt is empty" in wrong_usage(["caption", "image.png", "--prompt", " "], capsys)


def test_an_image_is_not_overwritten(where, image_path, capsys):
    before = image_path.read_bytes()
    line = wrong_usage(["encode", "image.png", "-o", "other.png", *where], capsys)
    assert "ends in .safetensors" in line
    assert "it is the image itself" in wrong_usage(["visualize", "image.png", "-o", "./image.png", *where], capsys)
    assert image_path.read_bytes() == before


def test_a_service_that_is_not_there_is_started_with_up(image_path, capsys):
    for command in (
        ["caption", "image.png"],
        ["ask", "image.png", "?"],
        ["encode", "image.png", "-o", "t.safetensors"],
    ):
        assert main([*command, "--encoder", "127.0.0.1:1", "--timeout", "1"]) == 1
        assert "; to start the services here, run: visionsplit up\n" in capsys.readouterr().err


def test_data_urls_are_images_and_are_named_shortly(image_path, where, services, capsys):
    url = "data:image/png;base64," + base64.b64encode(image_path.read_bytes()).decode()
    assert main(["caption", url, url[:-9] + "!!", *where]) == 1
    out, err = capsys.readouterr()
    assert out.count("data:image/png;base64,… (") == 1
    assert "its base64 is damaged" in err
    assert max(map(len, (out + err).splitlines())) < 250
    assert services.encoder.script.requests[0].images[0].data == image_path.read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens: '0' is not a whole number of at least 1"),
        (["--temperature", "-1"], "--temperature: -1 is not a finite number of at least 0"),
        (["--top-p", "0"], "--top-p: 0 is not above 0 and at most 1"),
        (["--top-k", "-2"], "--top-k: '-2' is not a whole number of at least -1"),
        (["--seed", "-2"], "--seed: '-2' is not a whole number of at least -1"),
        (["--repetition-penalty", "0"], "--repetition-penalty: 0 is not a finite number above 0"),
        (["--max-new", "4"], "unrecognized arguments: --max-new 4"),
    ],
)
def test_a_wrong_value_is_a_wrong_usage_before_any_service_is_asked(image_path, capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        main(["caption", str(image_path), str(image_path), *words])
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("option", ["--listen 127.0.0.1:1", "--llm=127.0.0.1:1", "--model other"])
def test_up_passes_on_no_option_that_it_sets_itself(capsys, option):
    with pytest.raises(SystemExit) as ended:
        main(["up", f"--encoder-args={option}"])
    assert ended.value.code == 2
    assert "is set by the options of `visionsplit up` itself" in capsys.readouterr().err
