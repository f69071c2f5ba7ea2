"""WebDataset shards."""

import io
import json
import tarfile
import tracemalloc
import uuid

import fsspec
import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources import Columns

from tests.unit.batch.source_checks import opened, png, read_all


def shard(members, **options):
    """A tar file's bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sample(key, number, **fields):
    return [
        (f"{key}.json", json.dumps({"n": number, **fields}).encode()),
        (f"{key}.png", png(number)),
        (f"{key}.txt", b"A caption.\n"),
        (f"{key}.cls", b"3"),
    ]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_are_neighbours_with_one_key(tmp_path, form):
    long = "x" * 80 + "/" + "y" * 80
    (tmp_path / "a.tar").write_bytes(
        shard([*sample("dir/000", 0), *sample("./dir/001", 1), *sample(long, 2)], format=form)
    )
    source = opened(tmp_path / "a.tar")
    assert read_all(source) == {
        key: Content((png(number),), fields={"n": number, "txt": "A caption."})
        for number, key in enumerate(["dir/000", "dir/001", long])
    }
    assert source.settings()["format"] == "webdataset"


@pytest.mark.parametrize("between", [b"", bytes(512), bytes(1 << 16)])
def test_archives_that_were_joined_are_read_to_the_last(tmp_path, between):
    both = shard(sample("0", 0)) + between + shard(sample("1", 1)) + bytes(700)
    (tmp_path / "a.tar").write_bytes(both)
    assert {key: content.images for key, content in read_all(opened(tmp_path / "a.tar")).items()} == {
        "0": (png(0),),
        "1": (png(1),),
    }
    (tmp_path / "a.tar").write_bytes(both + b"x" * 600)
    with pytest.raises(InputError, match="cannot be read as a tar file"):
        read_all(opened(tmp_path / "a.tar"))


def test_several_shards_may_use_the_same_keys(tmp_path):
    store = f"memory://{uuid.uuid4().hex}"
    for number in range(3):
        data = shard([*sample("0", number), *sample("1", number + 10)])
        (tmp_path / f"s-{number:02d}.tar").write_bytes(data)
        with fsspec.open(f"{store}/s-{number:02d}.tar", "wb") as file:
            file.write(data)
    rows = read_all(opened(tmp_path))
    assert list(rows) == ["s-00/0", "s-00/1", "s-01/0", "s-01/1", "s-02/0", "s-02/1"]
    assert rows["s-02/1"].images == (png(12),)
    assert list(read_all(opened(f"{tmp_path}/s-{{01..02}}.tar")).values()) == list(rows.values())[2:]
    assert read_all(opened(store)) == rows


def test_keys_that_come_twice_in_a_shard(tmp_path):
    (tmp_path / "a.tar").write_bytes(shard([*sample("0", 0), *sample("1", 1), *sample("0", 2)]))
    with pytest.raises(InputError, match=r"'0' comes twice: byte \d+ of .*a.tar and byte \d+ of .*a.tar"):
        list(opened(tmp_path / "a.tar").entries())


def test_which_member_is_the_image(tmp_path):
    members = [
        ("0.jpg", png(0)), ("0.mask.png", png(1)),
        ("1.left.jpg", png(2)), ("1.right.jpg", png(3)),
        ("._1.jpg", b"left by another system"),
        ("2.json", b'{"ask": "What?"}'),
    ]  # fmt: skip
    (tmp_path / "a.tar").write_bytes(shard(members))
    rows = read_all(opened(tmp_path / "a.tar"))
    assert list(rows) == ["0", "1", "2"]
    assert (rows["0"].images, rows["1"].images) == ((png(0),), (png(2), png(3)))
    assert rows["2"].message == "the sample has no image"
    rows = read_all(opened(tmp_path / "a.tar", columns=Columns(image="right.jpg")))
    assert rows["1"].images == (png(3),)
    assert rows["0"].message == "the sample has no image .right.jpg"


def test_prompts_and_odd_members(tmp_path):
    members = [*sample("a", 1, ask="What?"), *sample("b", 2), ("c.json", b"{"), ("c.png", png(3)), ("d.png", b"")]
    (tmp_path / "a.tar").write_bytes(shard(members))
    rows = read_all(opened(tmp_path / "a.tar", columns=Columns(prompt="ask", fields=("n",))))
    assert rows["a"] == Content((png(1),), questions=(Question("What?"),), fields={"n": 1})
    assert "the prompt in 'ask' is None" in rows["b"].message
    assert "the .json member is not JSON" in rows["c"].message
    assert rows["d"].error == "InvalidImageError"


def test_what_is_no_shard(tmp_path):
    data = shard(sample("a", 1))
    for name, content in [
        ("header.tar", data[:1300]),
        ("data.tar", data[:2040]),
        ("broken.tar", data[:1100] + b"other" + data[1105:]),
        ("none.tar", b"no tar" * 200),
        ("empty.tar", b""),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read as a tar file"):
            list(opened(tmp_path / name).entries())
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(InputError, match="unpack it first"):
        opened(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match="ids of a WebDataset are its keys"):
        opened(tmp_path / "a.tar", columns=Columns(id="n"))


def test_a_large_shard_is_listed_in_little_memory(tmp_path):
    (tmp_path / "a.tar").write_bytes(shard((f"{number:06d}.jpg", b"x") for number in range(5_000)))
    tracemalloc.start()
    listed = sum(1 for _ in opened(tmp_path / "a.tar").entries())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listed == 5_000
    assert peak < 3_000_000


def test_members_that_are_not_utf8_or_broken_fail_their_sample_alone_or_not_at_all(tmp_path):
    members = {
        "latin.png": png(1), "latin.txt": b"caf\xe9\n",
        "marked.PNG": png(2), "marked.TXT": b"\xef\xbb\xbfwords",
        "wide.png": png(3), "wide.json": json.dumps({"n": float("nan")}).encode("utf-16"),
        "broken.png": png(4), "broken.json": b"{",
        "caf\udce9.png": png(5),
        "both.jpg": png(6), "both.png": png(7),
        "words.txt": b"alone",
    }  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("linked.png")
        link.type, link.linkname = tarfile.LNKTYPE, "latin.png"
        archive.addfile(link)
    source = opened(tmp_path / "a.tar")
    rows = read_all(source)
    assert rows["latin"] == Content((png(1),), fields={"txt": "caf\udce9"})
    assert rows["marked"] == Content((png(2),), fields={"txt": "words"})
    assert rows["wide"] == Content((png(3),), fields={"n": None})
    assert "the .json member is not JSON" in rows["broken"].message
    assert rows["caf\\xe9"].images == (png(5),)
    assert rows["both"].images == (png(6), png(7))
    assert "no image" in rows["words"].message
    assert [(one.reason, one.names) for one in source.left_out] == [("special", (f"{tmp_path}/a.tar: linked.png",))]
