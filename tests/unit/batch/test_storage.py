"""Files by location: local paths, file:// URIs, and stores that fsspec opens."""

import os
import pickle
import random
import tracemalloc
import uuid
from pathlib import Path

import pytest
from visionsplit_batch.storage.storage import Storage, absolute, join, parent


@pytest.fixture(params=["path", "file", "memory", "local"])
def folder(request, tmp_path):
    """The same, whatever the kind of location: "local" is fsspec's name for this machine's files."""
    return {
        "path": str(tmp_path),
        "file": tmp_path.as_uri(),
        "memory": f"memory://{uuid.uuid4().hex}",
        "local": f"local://{tmp_path}",
    }[request.param]


def write(storage, location, data):
    storage.make_folders(parent(location))
    with storage.write_atomically(location) as file:
        file.write(data)


def fail_in_between(storage, location):
    before = storage.read(location, 10) if storage.exists(location) else None
    with storage.write_atomically(location) as file:
        file.write(b"new" * 10_000)
        file.flush()
        assert (storage.read(location, 10) if storage.exists(location) else None) == before
        raise RuntimeError


def test_what_is_written_is_read(folder):
    storage = Storage()
    location = join(folder, "a/b c%20.bin")
    assert not storage.exists(location)
    write(storage, location, b"0123456789")
    assert storage.is_file(location)
    assert not storage.is_folder(location)
    assert storage.is_folder(parent(location))
    assert storage.size(location) == 10
    assert storage.read(location, 100) == b"0123456789"
    assert storage.read(location, 4) == b"01234"  # one more than allowed
    with storage.open(location) as file:
        file.seek(7)
        assert file.read() == b"789"


def test_the_older_file_stays_until_the_new_one_is_whole(folder):
    storage = Storage()
    location = join(folder, "part.json")
    write(storage, location, b"old")
    with pytest.raises(RuntimeError):
        fail_in_between(storage, location)
    assert storage.read(location, 10) == b"old"
    assert list(storage.list(folder)) == ["part.json"]
    write(storage, location, b"new")
    assert storage.read(location, 10) == b"new"


def test_a_failed_write_leaves_nothing(folder):
    storage = Storage()
    write(storage, join(folder, "beside"), b"x")
    with pytest.raises(RuntimeError):
        fail_in_between(storage, join(folder, "part.json"))
    assert list(storage.list(folder)) == ["beside"]


def test_deleting(folder):
    storage = Storage()
    location = join(folder, "a")
    write(storage, location, b"x")
    storage.delete(location)
    assert not storage.exists(location)
    storage.delete(location)


def test_names_come_in_one_order(folder):
    storage = Storage()
    names = ["a.png", "b/x.png", "b/y/z.png", "b0.png", "é.png", "Z.png", ".hidden"]
    for name in random.Random(0).sample(names, len(names)):
        write(storage, join(folder, name), b"x")
    assert list(storage.list(folder)) == [".hidden", "Z.png", "a.png", "b/x.png", "b/y/z.png", "b0.png", "é.png"]
    assert list(storage.list(folder, max_depth=1)) == [".hidden", "Z.png", "a.png", "b0.png", "é.png"]
    assert list(storage.list(folder, max_depth=2)) == [".hidden", "Z.png", "a.png", "b/x.png", "b0.png", "é.png"]


def test_what_is_not_there(folder):
    storage = Storage()
    with pytest.raises(FileNotFoundError):
        storage.open(join(folder, "none"))
    with pytest.raises(FileNotFoundError):
        list(storage.list(join(folder, "none")))


def test_it_is_pickled_without_its_connections(folder):
    storage = Storage()
    write(storage, join(folder, "a"), b"x")
    assert pickle.loads(pickle.dumps(storage)).read(join(folder, "a"), 1) == b"x"


def test_a_large_local_folder_is_sorted_in_little_memory(tmp_path):
    count = 60_000
    (tmp_path / "first").touch()
    for number in range(count):
        os.link(tmp_path / "first", tmp_path / f"{number * 7919 % count:06d}-{'x' * 60}.png")
    tracemalloc.start()
    names = Storage().list(str(tmp_path))
    previous = next(names)
    listed = 1
    for name in names:
        assert name > previous
        previous, listed = name, listed + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listed == count + 1
    assert peak < 6_000_000  # the names alone are more than this


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.png").touch()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "elsewhere")
    (top / "gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(top / "pipe.png")
    assert list(Storage().list(str(top))) == ["gone.png", "link/a.png"]
    (top / "up").symlink_to(top)
    with pytest.raises(OSError, match="leads back"):
        list(Storage().list(str(top)))


def test_names_need_not_be_utf8(tmp_path):
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png")).write_bytes(b"data")
    (name,) = Storage().list(str(tmp_path))
    assert Storage().read(join(str(tmp_path), name), 10) == b"data"


def test_unknown_kinds_of_store():
    with pytest.raises(ValueError, match="xyz:// is not a kind of store"):
        Storage().open("xyz://a/b")
    with pytest.raises(ValueError, match="names another machine, far"):
        Storage().open("file://far/b")


@pytest.mark.parametrize(
    ("folder", "joined", "above"),
    [
        ("s3://bucket", "s3://bucket/a/b", "s3://bucket/a"),
        (
            "s3://bucket/x/?endpoint_override=host:9000&scheme=http",
            "s3://bucket/x/a/b?endpoint_override=host:9000&scheme=http",
            "s3://bucket/x/a?endpoint_override=host:9000&scheme=http",
        ),
        ("hdfs://host:8020/x", "hdfs://host:8020/x/a/b", "hdfs://host:8020/x/a"),
        ("/x", "/x/a/b", "/x/a"),
        ("file:///x%20y", "/x y/a/b", "/x y/a"),
    ],
)
def test_joining(folder, joined, above):
    assert join(folder, "a/b") == joined
    assert parent(joined) == above


def test_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b") == str(tmp_path / "a/b")
    assert absolute("s3://bucket/a") == "s3://bucket/a"
