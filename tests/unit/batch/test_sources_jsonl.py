"""JSON lines with an image's column, and OpenAI's batch files."""

import base64
import json

import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources import Columns
from visionsplit_client import ImagePart, Limits, Message, Sampling

from tests.unit.batch.source_checks import images, opened, png, read_all


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def data_url(number):
    return "data:image/png;base64," + base64.b64encode(png(number)).decode()


def test_columns_become_image_id_prompt_and_fields(folder):
    rows = [
        {"key": "a", "image": "0.png", "ask": "What?", "n": 1, "deep": {"x": [None, 2.5]}},
        {"key": 7, "image": "1.png", "ask": ["One?", "Two?"]},
    ]
    source = opened(write(folder / "rows.jsonl", *rows), columns=Columns(id="key", prompt="ask"))
    assert read_all(source) == {
        "a": Content((png(0),), questions=(Question("What?"),), fields={"n": 1, "deep": {"x": [None, 2.5]}}),
        "7": Content((png(1),), questions=(Question("One?"), Question("Two?"))),
    }
    columns = {"id": "key", "image": "image", "prompt": "ask", "fields": None}
    assert source.settings() == {"format": "jsonl", "inputs": [str(folder / "rows.jsonl")], "columns": columns}
    assert json.loads(json.dumps(source.settings())) == source.settings()


def test_every_form_of_an_image(folder):
    forms = [
        "0.png",
        str(folder / "1.png"),
        (folder / "2.png").as_uri(),
        data_url(3),
        base64.b64encode(png(4)).decode(),
        {"bytes": None, "path": "0.png"},
        ["1.png", data_url(5)],
    ]
    path = write(folder / "rows.jsonl", *({"photo": form} for form in forms))
    assert images(opened(path, columns=Columns(image="photo"))) == {
        "line 1": (png(0),),
        "line 2": (png(1),),
        "line 3": (png(2),),
        "line 4": (png(3),),
        "line 5": (png(4),),
        "line 6": (png(0),),
        "line 7": (png(1), png(5)),
    }


def test_a_long_name_without_a_dot_is_a_path(folder):
    name = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    (folder / name).write_bytes(png(1))
    assert images(opened(write(folder / "rows.jsonl", {"image": name}))) == {"line 1": (png(1),)}


def test_odd_lines_fail_alone(folder):
    path = write(
        folder / "rows.jsonl",
        {"id": "good", "image": "0.png"},
        "",
        "{not json",
        "[1]",
        {"id": True, "image": "0.png"},
        {"image": "0.png"},
        {"id": "\ud800", "image": "0.png"},
        {"id": "none", "image": None},
        {"id": "gone", "image": "gone.png"},
        {"id": "text", "image": data_url(1)[:-7]},
        {"id": "list", "image": []},
        {"id": "kind", "image": 5},
        {"id": "lacks"},
        "[" * 100_000,
        {"id": "end", "image": "2.png"},
    )
    rows = read_all(opened(path, columns=Columns(id="id")))
    sound = {name: content for name, content in rows.items() if isinstance(content, Content)}
    assert sound == {"good": Content((png(0),)), "end": Content((png(2),))}
    failures = {name: content.message for name, content in rows.items() if name not in sound}
    assert list(failures) == [f"line {number}" for number in (3, 4, 5, 6, 7)] + [
        "none", "gone", "text", "list", "kind", "lacks", "line 14"
    ]  # fmt: skip
    for name, text in {
        "line 3": "the row is not JSON: ",
        "line 4": "not a JSON object",
        "line 5": "the id in 'id' is True; text or a whole number is needed",
        "line 6": "the id in 'id' is None",
        "line 7": "cannot be written as UTF-8",
        "none": "the row has no image",
        "gone": "gone.png",
        "text": "its base64 is damaged",
        "list": "the list of images is empty",
        "kind": "int is not an image",
        "lacks": "no column 'image'",
        "line 14": "the row is not JSON: ",
    }.items():
        assert text in failures[name]
    assert {content.stage for name, content in rows.items() if name in failures} == {"read"}


def test_a_line_that_is_far_too_long_fails_without_being_read(folder):
    path = write(folder / "rows.jsonl", {"image": "0.png"}, {"image": "x" * 100_000}, {"image": "1.png"})
    first, long, last = read_all(opened(path, limits=Limits(max_image_bytes=1000))).values()
    assert (first.images, last.images) == ((png(0),), (png(1),))
    assert "bytes, more than the 8000 that are read" in long.message


def test_a_folder_of_files_names_them_in_ids(folder):
    (folder / "rows").mkdir()
    for name in ("b.jsonl", "a.jsonl"):
        write(folder / "rows" / name, {"image": "../0.png", "file": name}, {"image": "../1.png", "file": name})
    rows = read_all(opened(folder / "rows", columns=Columns(fields=("file",))))
    assert list(rows) == ["a.jsonl line 1", "a.jsonl line 2", "b.jsonl line 1", "b.jsonl line 2"]
    assert rows["b.jsonl line 2"] == Content((png(1),), fields={"file": "b.jsonl"})


def test_ids_that_come_twice(folder):
    path = write(folder / "rows.jsonl", *({"id": name, "image": "0.png"} for name in "abcb"))
    with pytest.raises(InputError, match=r"'b' comes twice: line 2 of .*rows.jsonl and line 4 of .*rows.jsonl"):
        list(opened(path, columns=Columns(id="id")).entries())


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (Columns(), "no column of .* seems to hold images; name one with --image-column: a, b"),
        (Columns(image="c"), "has no column 'c'; it has a, b"),
        (Columns(image="a", prompt="p"), "has no column 'p'"),
        (Columns(image="a", fields=("b", "f")), "has no column 'f'"),
    ],
)
def test_columns_that_are_not_there(folder, columns, complaint):
    with pytest.raises(InputError, match=complaint):
        opened(write(folder / "rows.jsonl", {"a": 1}, {"b": 2}), columns=columns)


def test_a_file_without_any_object(folder):
    with pytest.raises(InputError, match="contains neither a JSON object per line nor an array"):
        opened(write(folder / "rows.jsonl", "a", "b"))


def line(custom_id, *content, **body):
    messages = body.pop("messages", [{"role": "user", "content": list(content)}])
    body = {"model": "m", "messages": messages, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def image_part(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


def text(words):
    return {"type": "text", "text": words}


def test_openai_lines_become_conversations(folder):
    path = write(
        folder / "batch.jsonl",
        line("a", text("Compare"), image_part(data_url(7), detail="high"), image_part("1.png"), max_tokens=20, n=1),
        line(
            "b",
            messages=[
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [image_part((folder / "2.png").as_uri()), text("What?")]},
                {"role": "assistant", "content": "A dot."},
                {"role": "user", "content": "Where?"},
            ],
            temperature=0.5, top_p=0.9, seed=3, stop="\n", max_completion_tokens=5, user="someone", logprobs=False,
        ),
        line("c", image_part("0.png")),
    )  # fmt: skip
    source = opened(path)
    assert source.settings() == {"format": "openai", "inputs": [str(path)]}
    rows = read_all(source)
    asked = (Message("user", ("Compare", ImagePart(), ImagePart())),)
    assert rows["a"] == Content(
        (png(7), png(1)), questions=(Question(messages=asked, sampling=Sampling(20)),), fields={"model": "m"}
    )
    (question,) = rows["b"].questions
    assert rows["b"].images == (png(2),)
    assert question.messages == (
        Message("system", "Be brief."),
        Message("user", (ImagePart(), "What?")),
        Message("assistant", "A dot."),
        Message("user", "Where?"),
    )
    assert question.sampling == Sampling(5, temperature=0.5, top_p=0.9, seed=3, stop=["\n"])
    assert rows["c"].questions == (Question(messages=(Message("user", (ImagePart(),)),)),)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({**line("a", text("x")), "url": "/v1/embeddings"}, "only POST /v1/chat/completions is supported"),
        ({**line("a", text("x")), "extra": 1}, "unknown fields: extra"),
        ({**line("a", text("x")), "body": None}, "body is not a JSON object"),
        (line("a", text("x"), n=2), "'n' with this value is not supported"),
        (line("a", text("x"), tools=[{"type": "function"}]), "'tools' with this value"),
        (line("a", text("x"), stream=True), "'stream' with this value"),
        (line("a", text("x"), max_tokens="9"), "'max_tokens' is '9'; a whole number is needed"),
        (line("a", text("x"), max_tokens=0), "max_new_tokens is 0"),
        (line("a", text("x"), seed=-2), "seed is -2"),
        (line("a", text("x"), temperature=True), "'temperature' is True; a number is needed"),
        (line("a", text("x"), stop=[1]), "'stop' is neither text nor"),
        (line("a", {"type": "input_audio", "input_audio": {}}), "type 'input_audio'"),
        (line("a", messages=[]), "'messages' is not a non-empty list"),
        (line("a", messages=[{"role": "tool", "content": "x"}]), "role 'tool' are not supported"),
        (line("a", messages=[{"role": ["user"], "content": "x"}]), "role"),
        (line("a", messages=[{"role": "user", "content": "x", "name": "n"}]), "fields other than"),
        (line("a", messages=["x"]), "fields other than"),
        (line("a", image_part("gone.png")), "gone.png"),
    ],
)
def test_what_openai_lines_cannot_ask_for_fails_the_line(folder, row, complaint):
    path = write(folder / "batch.jsonl", line("good", image_part("0.png")), row)
    good, failure = read_all(opened(path)).values()
    assert good.images == (png(0),)
    assert complaint in failure.message
    assert failure.stage == "read"


def test_openai_files_have_no_columns_to_name(folder):
    with pytest.raises(InputError, match="columns of an OpenAI batch file are fixed"):
        opened(write(folder / "batch.jsonl", line("a", text("x"))), columns=Columns(id="custom_id"))
