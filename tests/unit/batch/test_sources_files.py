"""Inputs of image files and lists of them, and the detection of an input's format."""

import http.server
import threading
import uuid

import fsspec
import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Failure
from visionsplit_client import Limits

from tests.unit.batch.source_checks import images, opened, png, read_all


@pytest.fixture
def photos(tmp_path):
    """Three images and some files beside them."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for number, name in enumerate(["c.JPG", "a.png", "b/x.webp", ".a.png", ".hidden/a.png"]):
        (folder / name).write_bytes(png(number))
    for name in ("README.md", "notes.txt"):
        (folder / name).write_text("words")
    return folder


def test_a_folder_is_read_with_all_below_it(photos):
    source = opened(photos)
    assert images(source) == {"a.png": (png(1),), "b/x.webp": (png(2),), "c.JPG": (png(0),)}
    assert source.settings() == {"format": "files", "inputs": [str(photos)]}


def test_single_images_keep_their_names(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert list(images(opened("c.JPG", "./a.png"))) == ["c.JPG", "a.png"]


def test_an_input_is_found_from_another_folder(photos, monkeypatch, tmp_path):
    monkeypatch.chdir(photos.parent)
    source = opened("photos")
    monkeypatch.chdir(tmp_path / "photos" / "b")
    assert len(read_all(source)) == 3


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*", ["photos/a.png", "photos/c.JPG"]),
        ("photos/**/*.webp", ["photos/b/x.webp"]),
        ("photos/?.png", ["photos/a.png"]),
        ("ph*/b/*", ["photos/b/x.webp"]),
        ("photos/{c.JPG,a.png}", ["photos/c.JPG", "photos/a.png"]),
    ],
)
def test_globs_and_braces(photos, monkeypatch, pattern, names):
    monkeypatch.chdir(photos.parent)
    assert list(images(opened(pattern))) == names


def test_a_name_with_special_signs_is_taken_as_it_is(tmp_path):
    (tmp_path / "a[1].png").write_bytes(png(1))
    assert images(opened(tmp_path / "a[1].png")) == {str(tmp_path / "a[1].png"): (png(1),)}


def test_several_folders_may_have_the_same_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(1))
    assert list(images(opened("one", "two/"))) == ["one/a.png", "two/a.png"]


def test_the_same_file_twice(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    source = opened("photos/a.png", "photos/*.png")
    with pytest.raises(InputError, match=r"the id 'photos/a.png' comes twice: .*photos/a.png and .*photos/a.png"):
        list(source.entries())


def test_a_file_that_is_gone_or_too_large_fails_alone(photos):
    source = opened(photos, limits=Limits(max_image_bytes=500))
    entries = list(source.entries())
    (photos / "a.png").unlink()
    (photos / "c.JPG").write_bytes(bytes(501))
    gone, sound, large = source.read(entries)
    assert gone == Failure("FileNotFoundError", gone.message, "read")
    assert "a.png" in gone.message
    assert sound == Content(images=(png(2),))
    assert (large.error, large.stage) == ("InvalidImageError", "read")


def test_a_store():
    folder = f"memory://{uuid.uuid4().hex}"
    for name in ("b.png", "a/c.png"):
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(png(len(name)))
    expected = {"a/c.png": (png(7),), "b.png": (png(5),)}
    assert images(opened(folder)) == expected
    assert images(opened(f"{folder}/**/*.png")) == {f"{folder}/{name}": data for name, data in expected.items()}
    with pytest.raises(InputError, match="gone does not exist"):
        opened(f"{folder}/gone")


@pytest.fixture
def server():
    """The address of a server with one image, /a.png."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(png(9))

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


def test_a_list_of_paths_and_urls(photos, server):
    (photos / "list.txt").write_text(
        f"\ufeffa.png\r\n\n \t\nb/x.webp\n{photos / 'c.JPG'}\n{server}/a.png\n{server}/gone.png\nx.png",
        encoding="utf-8",
    )
    rows = read_all(opened(photos / "list.txt"))
    assert list(rows) == ["a.png", "b/x.webp", str(photos / "c.JPG"), f"{server}/a.png", f"{server}/gone.png", "x.png"]
    *sound, missing, none = rows.values()
    assert [content.images for content in sound] == [(png(1),), (png(2),), (png(0),), (png(9),)]
    assert (missing.error, none.error) == ("ImageFetchError", "FileNotFoundError")


def test_a_line_twice(photos):
    (photos / "list.txt").write_text("a.png\nb/x.webp\na.png\n")
    with pytest.raises(InputError, match=r"'a.png' comes twice: line 1, .*a.png and line 3, .*a.png"):
        list(opened(photos / "list.txt").entries())


def test_a_line_that_is_too_long_fails_and_is_not_cut(photos):
    line = "data:image/png;base64," + "A" * (1 << 20)
    (photos / "list.txt").write_text(f"{line}\na.png\n")
    rows = read_all(opened(photos / "list.txt"))
    assert rows.keys() == {"line 1", "a.png"}
    assert rows["line 1"].message == f"the line has {len(line) + 1} bytes, more than the {1 << 20} that are read"


def test_files_of_several_formats_that_are_named(photos):
    for name in ("m.csv", "mb.jsonl", "list.txt", "m.json"):
        (photos / name).write_text('{"image": "a.png"}\n')
    for names, complaint in [
        (["m.csv", "mb.jsonl"], r"several formats, jsonl \(.*mb.jsonl\) and csv \(.*m.csv\); name one with --format"),
        (["a.png", "list.txt"], r"several formats, files \(.*\) and list"),
    ]:
        with pytest.raises(InputError, match=complaint):
            opened(*(photos / name for name in names))
    assert opened(photos / "mb.jsonl", photos / "m.json").settings()["format"] == "jsonl"


def test_a_url_as_the_input(server):
    assert images(opened(f"{server}/a.png")) == {f"{server}/a.png": (png(9),)}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([], "is empty"),
        (["data.xyz"], "the format of data.xyz is not recognised; name one of files, list, jsonl"),
        (["a.tar.gz"], "a.tar.gz is compressed, .* unpack it first"),
        (["a.jsonl.gz"], "a.jsonl.gz is compressed, .* unpack it first"),
        (["a.png", "b.parquet"], r"several formats, files \(a.png\) and parquet \(b.parquet\)"),
    ],
)
def test_what_cannot_be_told(tmp_path, files, complaint):
    for name in files:
        (tmp_path / name).write_bytes(b"data")
    with pytest.raises(InputError, match=complaint):
        opened(tmp_path)


def test_inputs_that_cannot_be(tmp_path, photos):
    for arguments, options, complaint in [
        ([], {}, "no input"),
        ([tmp_path / "none"], {}, "none does not exist"),
        ([tmp_path / "*.png"], {}, "no file matches"),
        (["xyz://a/b"], {}, "xyz:// is not a kind of store"),
        ([photos], {"format": "xml"}, "unknown format 'xml'; there are: files, list"),
        ([photos], {"split": "train"}, "files has no splits"),
    ]:
        with pytest.raises(InputError, match=complaint):
            opened(*arguments, **options)
    (photos.parent / "empty").mkdir()
    with pytest.raises(InputError, match="empty has no rows of the format files"):
        list(opened(photos.parent / "empty", format="files").entries())
    with pytest.raises(InputError, match=r"no rows of the format files; left out: 1 file of another .*README.md'\)"):
        list(opened(photos / "*.md", format="files").entries())
