"""Every file of a folder becomes a row, or is counted among the files that were left out."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from PIL import Image
from visionsplit.images import HEAD_BYTES, begins_as_image
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.left_out import in_words, needs_attention
from visionsplit_batch.rows.rows import Failure
from visionsplit_batch.storage import listing

from tests.unit.batch.source_checks import images, opened, png, read_all


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


IMAGE = png(1)


def put(folder, *names, data=IMAGE):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def left_out(source):
    list(source.entries())
    return {one.reason: one.names for one in source.left_out}


ODD = [
    "photo.jpeg?itok=1",
    "photo.jpg!large",
    "photo.png ",
    "noext",
    "9f86d081884c7d65",
    "x.PNG",
    "a.b.c",
    "#1.png",
    " .png",
]


def test_images_are_found_whatever_their_names_are(folder):
    put(folder, *ODD)
    source = opened(folder)
    assert images(source) == {name: (png(1),) for name in sorted(ODD)}
    assert source.left_out == ()


def test_what_is_no_image_is_counted_by_reason(folder):
    put(folder, "a.png", "deep/b.png", ".hidden.png", ".git/c.png", "x.png/inside.png")
    put(folder, "Thumbs.db", "notes.txt", "a.json", "deep/LICENSE", "empty", "BMW.txt", data=b"")
    (folder / "BMW.txt").write_text("BMW is a car, MM* and II* are not")
    os.mkfifo(folder / "pipe.png")
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "gone").symlink_to("nowhere")
    source = opened(folder)
    rows = read_all(source)
    assert rows.keys() == {"a.png", "deep/b.png", "x.png/inside.png", "gone.png", "self.png"}
    assert {name for name, row in rows.items() if isinstance(row, Failure)} == {"gone.png", "self.png"}
    assert left_out(source) == {
        "format": ("BMW.txt", "a.json", "deep/LICENSE", "empty", "gone", "notes.txt"),
        "link": ("loop",),
        "special": ("pipe.png",),
        "hidden": (".git/", ".hidden.png", "Thumbs.db"),
    }
    assert needs_attention(source.left_out)
    assert "1 pipe, socket, device or archived link ('pipe.png'), 3 hidden or system files" in in_words(source.left_out)


def test_a_folder_that_cannot_be_read_is_counted(folder, monkeypatch):
    put(folder, "a.png", "closed/b.png")
    scan = listing._scan

    def closed(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    is_file = Path.is_file

    def closed_is_file(path):
        if "closed" in path.parent.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(listing, "_scan", closed)
    monkeypatch.setattr(Path, "is_file", closed_is_file)
    assert left_out(opened(folder)) == {"folder": ("closed",)}
    with pytest.raises(InputError, match=r"cannot be opened: .*Permission denied"):
        opened(folder / "closed")


def test_names_are_bounded(folder):
    put(folder, "a.png")
    put(folder, *(f"{number:03d}.txt" for number in range(100)), data=b"words")
    source = opened(folder)
    list(source.entries())
    (format_,) = source.left_out
    assert (format_.count, len(format_.names), format_.names[0]) == (100, 20, "000.txt")
    assert in_words(source.left_out).endswith("'004.txt', ...)")


def test_the_output_of_jobs_is_never_input(folder):
    put(folder, "a.png", "captions/part-00000.png", "captions/errors.jsonl", "older/part-00000.jsonl", "older/x/y.png")
    (folder / "older" / "_run").mkdir()
    (folder / "older" / "_run" / "settings.json").write_text("{}")
    (folder / "linked").symlink_to(folder / "captions")
    source = opened(folder, output=str(folder / "captions"))
    assert list(read_all(source)) == ["a.png"]
    assert left_out(source) == {"output": ("captions/", "linked/", "older/")}
    assert not needs_attention(source.left_out)
    pattern = opened(f"{folder}/**/*.png", output=str(folder / "captions"))
    assert list(read_all(pattern)) == [str(folder / "a.png")]
    for same in (folder, f"{folder}/", f"{folder}/../photos"):
        with pytest.raises(InputError, match="the output folder is the input"):
            opened(same, output=str(folder))


def test_a_runs_answers_as_an_input(folder):
    lines = "".join(json.dumps({"image": "../a.png", "n": n}) + "\n" for n in range(2))
    put(folder.parent, "a.png")
    put(folder, "part-00000.jsonl", data=lines.encode())
    put(folder, "errors.jsonl", "_run/settings.json", "_run/part-00000.journal", data=b"{}")
    source = opened(folder)
    assert list(read_all(source)) == ["part-00000.jsonl line 1", "part-00000.jsonl line 2"]
    assert left_out(source) == {"output": ("errors.jsonl",)}


def test_globs_count_what_matches_them_only(folder):
    put(folder, "a.png", "b/c.png")
    put(folder, "a.txt", "b/c.txt", "photo.txt", data=b"words")
    assert left_out(opened(f"{folder}/a*", f"{folder}/b/*")) == {
        "format": (str(folder / "a.txt"), str(folder / "b/c.txt"))
    }


def test_names_that_are_not_utf8_and_names_with_special_signs(folder):
    name = os.fsdecode(b"caf\xe9.png")
    put(folder, name, "x{1,2}.png", "new\nline.png", "a[1].png")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("words")
    source = opened(folder)
    assert list(images(source)) == ["a[1].png", "caf\\xe9.png", "new\nline.png", "x{1,2}.png"]
    text = in_words(source.left_out)
    assert text.encode()  # it can be printed
    assert list(images(opened(folder / "x{1,2}.png"))) == [str(folder / "x{1,2}.png")]
    (folder.parent / "list.txt").write_bytes(b"photos/caf\xe9.png\nphotos/new.png \n")
    rows = read_all(opened(folder.parent / "list.txt"))
    assert rows["photos/caf\\xe9.png"].images == (png(1),)
    assert rows["photos/new.png "].error == "FileNotFoundError"


def test_in_a_store_the_name_decides():
    store = "memory://left-out"
    for name in ("a.png", "noext", "b/.hidden.png", "out/_run/settings.json", "out/x.png"):
        with fsspec.open(f"{store}/{name}", "wb") as file:
            file.write(png(1))
    source = opened(store)
    assert list(read_all(source)) == ["a.png"]
    assert left_out(source) == {"format": ("noext",), "output": ("out/",), "hidden": ("b/.hidden.png",)}


def test_an_input_without_rows_says_what_was_left_out(folder):
    put(folder, ".a.png", "Thumbs.db")
    with pytest.raises(InputError, match=r"is empty; left out: 2 hidden or system files \('.a.png', 'Thumbs.db'\)"):
        opened(folder)


@pytest.mark.parametrize(
    "save",
    [
        {"format": "JPEG"},
        {"format": "PNG"},
        {"format": "GIF"},
        {"format": "WEBP"},
        {"format": "BMP"},
        {"format": "TIFF"},
        {"format": "TIFF", "big_tiff": True},
        {"format": "PPM"},
        {"format": "JPEG2000"},
        {"format": "JPEG2000", "no_jp2": True},
        {"format": "AVIF"},
    ],
    ids=str,
)
def test_every_format_is_known_by_its_first_bytes(folder, save):
    image = Image.effect_noise((40, 30), 50).convert("RGB")
    image.save(folder / "image", **save)
    assert list(read_all(opened(folder))) == ["image"]
    assert begins_as_image((folder / "image").read_bytes()[:HEAD_BYTES])


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"BMW is a car and this is a text", b"P1", b"P2P is a network", b"RIFFabcdWAVEfmt "]
)
def test_texts_and_sounds_are_no_images(head):
    assert not begins_as_image(head)
