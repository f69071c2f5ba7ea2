"""JSON in other forms than UTF-8 lines of columns: arrays, encodings, LLaVA's training format."""

import json
import random

import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content
from visionsplit_batch.sources import Columns, json_array
from visionsplit_client import ImagePart, Limits, Message

from tests.unit.batch.source_checks import images, opened, png, read_all


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    return tmp_path


def rows(count):
    return [
        {"id": f"r{n}", "image": f"{n % 3}.png", "text": 'a "quoted" \\ [{,}] ü \ud800' * (n % 7)} for n in range(count)
    ]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_an_array_is_read_element_by_element(folder, indent, chunk, monkeypatch):
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", chunk)
    text = json.dumps(rows(40), indent=indent)
    (folder / "rows.json").write_text(f" \n{text}\n", "utf-8-sig")
    found = read_all(opened(folder / "rows.json"))
    assert found == {
        f"row {n}": Content((png(n % 3),), fields={"id": row["id"], "text": row["text"]})
        for n, row in enumerate(rows(40))
    }
    assert list(read_all(opened(folder / "rows.json", columns=Columns(id="id")))) == [f"r{n}" for n in range(40)]


def test_what_a_file_holds_decides_and_not_its_name(folder):
    (folder / "lines.json").write_text("\n".join(map(json.dumps, rows(3))))
    (folder / "array.jsonl").write_text(json.dumps(rows(3)))
    (folder / "bare").write_text(json.dumps(rows(3)))
    assert list(read_all(opened(folder / "lines.json"))) == ["line 1", "line 2", "line 3"]
    assert list(read_all(opened(folder / "array.jsonl"))) == ["row 0", "row 1", "row 2"]
    assert list(read_all(opened(folder / "bare"))) == ["row 0", "row 1", "row 2"]


def test_broken_elements_fail_alone(folder):
    good, twice = '{"image": "0.png"}', '{"image": "1.png", "image": "2.png"}'
    (folder / "rows.json").write_text(f'[{good}, {{"image": 1 2}}, 5,, {good} {good}, {twice}, {good}, ]')
    found = read_all(opened(folder / "rows.json"))
    assert [name for name, row in found.items() if isinstance(row, Content)] == ["row 0", "row 6"]
    messages = [row.message for row in found.values() if not isinstance(row, Content)]
    for message, text in zip(
        messages,
        ["not JSON: ", "not a JSON object", "not JSON: ", "Extra data", "the key 'image' comes twice"],
        strict=True,
    ):
        assert text in message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[{"image": "0.png"}, {"image": "1', "cut off"),
        ('[{"image": "0.png"}', "the array has no end"),
        ('[{"image": "0.png"}] []', "other data follows the array at byte 20"),
        ('{"images": [{"image": "0.png"}],\n "more": 1}', "neither a JSON object per line nor an array"),
        ('["0.png"]', "neither a JSON object per line nor an array"),
        ("[]", "neither a JSON object per line nor an array"),
    ],
)
def test_files_that_are_refused_as_a_whole(folder, text, complaint):
    (folder / "rows.json").write_text(text)
    with pytest.raises(InputError, match=complaint):
        list(opened(folder / "rows.json").entries())


def test_elements_that_are_too_long_and_other_encodings_are_refused(folder):
    (folder / "rows.json").write_text(json.dumps([{"image": "0.png"}, {"image": "x" * 3_000_000}]))
    with pytest.raises(InputError, match="the element at byte 20 has more than 8000 bytes"):
        list(opened(folder / "rows.json", limits=Limits(max_image_bytes=1000)).entries())
    (folder / "rows.json").write_text(json.dumps(rows(2)), "utf-16")
    with pytest.raises(InputError, match="is UTF-16-LE text; a JSON array is read as UTF-8 only"):
        opened(folder / "rows.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_other_encodings(folder, encoding, end):
    """Some signs have a byte in them that is the end of a line in ASCII."""
    chance = random.Random(0)
    signs = "aĊ\u0a00\u0a0a\u000b਀ू🐈\u2028"
    texts = ["".join(chance.choices(signs, k=chance.randrange(9))) for _ in range(30)]
    lines = [json.dumps({"image": "1.png", "text": text}, ensure_ascii=False) for text in texts]
    (folder / "rows.jsonl").write_bytes(end.join([*lines[:9], "", " ", *lines[9:]]).encode(encoding))
    found = read_all(opened(folder / "rows.jsonl"))
    assert [row.fields["text"] for row in found.values()] == texts
    assert list(found)[8:11] == ["line 9", "line 12", "line 13"]


def test_a_line_of_another_encoding_fails_alone(folder):
    lines = [b'{"image": "0.png"}', b'{"image": "caf\xe9.png"}', b'{"image": "1.png"}']
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    first, latin, last = read_all(opened(folder / "rows.jsonl")).values()
    assert (first.images, last.images) == ((png(0),), (png(1),))
    assert "can't decode byte 0xe9" in latin.message


def llava(*turns, image="0.png", **more):
    names = ("human", "gpt")
    conversations = [{"from": names[n % 2], "value": turn} for n, turn in enumerate(turns)]
    return {"id": "1", **({} if image is None else {"image": image}), "conversations": conversations, **more}


def asked(folder, row):
    (folder / "train.json").write_text(json.dumps([row]))
    (content,) = read_all(opened(folder / "train.json")).values()
    return content


def test_each_human_turn_is_asked_behind_the_turns_before_it(folder):
    row = llava("<image>\nWhat is it?", "A dot.", "Which colour?", "Black.", lang="en")
    content = asked(folder, row)
    first = Message("user", (ImagePart(), "What is it?"))
    assert [question.messages for question in content.questions] == [
        (first,),
        (first, Message("assistant", "A dot."), Message("user", ("Which colour?",))),
    ]
    assert content.images == (png(0),)
    assert content.fields == {"id": "1", "conversations": row["conversations"], "lang": "en"}


def test_markers_stand_for_images_in_their_order(folder):
    first, second = "Left: <image>", "\nright: <image>."
    content = asked(folder, llava(first + second, image=["1.png", "2.png"]))
    (question,) = content.questions
    assert content.images == (png(1), png(2))
    assert question.messages == (Message("user", ("Left: ", ImagePart(), "right: ", ImagePart(), ".")),)
    (question,) = asked(folder, llava("Compare.", image=["1.png", "2.png"])).questions
    assert question.messages == (Message("user", (ImagePart(), ImagePart(), "Compare.")),)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (llava("<image> <image>"), "the first human turn has <image> 2 times, where the row has 1 images"),
        (llava("What?", "A dot.", "<image>"), "a later turn has <image> 1 times"),
        (llava("Hello", image=None), "no column 'image'"),
        (llava(image="0.png"), "'conversations' is not a non-empty list"),
        ({**llava(), "conversations": [{"from": "gpt", "value": "x"}]}, "no turn of a human"),
        ({**llava(), "conversations": [{"from": "tool", "value": "x"}]}, "'from', one of human"),
        ({**llava(), "conversations": ["x"]}, "a turn needs 'value'"),
        ({**llava(), "conversations": [{"from": ["human"], "value": "x"}]}, "a turn needs 'value'"),
    ],
)
def test_conversations_that_cannot_be_asked_fail_their_row(folder, row, complaint):
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [llava("<image>\nWhat?"), row])))
    source = opened(folder / "train.jsonl")
    assert source.settings()["format"] == "llava"
    good, failed = read_all(source).values()
    assert good.images == (png(0),)
    assert complaint in failed.message


def test_llava_files_may_begin_with_rows_without_images(folder):
    talk = {"conversations": [{"from": "human", "value": "What?"}]}
    (folder / "rows.json").write_text(json.dumps([talk] * 101 + [{**talk, "image": "0.png"}]))
    source = opened(folder / "rows.json")
    assert source.settings()["columns"]["image"] == "image"
    rows = read_all(source)
    assert "no column 'image'" in rows["row 0"].message
    assert rows["row 101"].images == ((folder / "0.png").read_bytes(),)


def test_llava_as_a_plain_table(folder):
    (folder / "train.json").write_text(json.dumps([llava("<image>\nWhat?")]))
    plain = opened(folder / "train.json", format="json", columns=Columns(id="id"))
    assert read_all(plain)["1"].questions == ()
    assert images(opened(folder / "train.json", columns=Columns(id="id"))) == {"1": (png(0),)}
    with pytest.raises(InputError, match="name no column for prompts"):
        opened(folder / "train.json", columns=Columns(prompt="id"))
