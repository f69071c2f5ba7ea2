"""The choice of the column of images."""

import base64

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.sources import Columns
from visionsplit_batch.sources.guess import image_column

from tests.unit.batch.source_checks import images, opened, png

BYTES, TEXT64 = png(1), base64.b64encode(png(1)).decode()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ({"url": ["http://a/b.png"], "jpg": [BYTES]}, "jpg"),
        ({"url": ["http://a/b.png"], "path": ["b.png"]}, "path"),
        ({"url": ["http://a/b.png"], "file_name": [None, "b.png"]}, "file_name"),
        ({"image_url": ["http://a/b.png"], "url": ["http://a/b.png"]}, "url"),
        ({"URL": ["http://a/b.png"], "TEXT": ["a cat"]}, "URL"),
        ({"image": ["b.png"], "image_base64": [TEXT64]}, "image_base64"),
        ({"url": ["http://a/b.png"], "content": [BYTES]}, "content"),
        ({"image": ["b.png"], "photo": [{"bytes": BYTES, "path": None}]}, "photo"),
        ({"image": [{"bytes": None, "path": "b.png"}], "mask": [b"not an image"]}, "image"),
        ({"images": [[BYTES]], "url": ["http://a/b.png"]}, "images"),
        ({"image": [None], "url": ["http://a/b.png"]}, "url"),
        ({"image": [None]}, "image"),
        ({"bytes": [1024], "path": ["b.png"]}, "path"),
        ({"jpg": [None], "url": ["http://a/b.png"]}, "jpg"),
        ({"jpg": [], "url": ["http://a/b.png"]}, "url"),
        ({"jpg": [b"broken"], "url": ["http://a/b.png"]}, "jpg"),
    ],
)
def test_bytes_before_paths_before_urls(samples, expected):
    assert image_column(samples, "rows") == expected


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ({"a": ["b.png"], "c": [1]}, "no column of rows seems to hold images; name one with --image-column: a, c"),
        ({"bytes": [1024], "c": [1]}, "no column"),
        ({"left": [BYTES], "right": [BYTES]}, "several columns of rows hold images; .*: left, right"),
    ],
)
def test_what_cannot_be_told(samples, complaint):
    with pytest.raises(InputError, match=complaint):
        image_column(samples, "rows")


def test_bytes_beside_urls_are_not_fetched(tmp_path):
    columns = {
        "key": ["0"],
        "jpg": [BYTES],
        "txt": ["a cat"],
        "url": ["http://127.0.0.1:1/a.png"],
        "status": ["success"],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    source = opened(tmp_path / "rows.parquet")
    assert images(source) == {"row 0": (BYTES,)}
    assert source.settings()["columns"]["image"] == "jpg"


FAILED = {"jpg": [None] * 20, "url": ["http://127.0.0.1:1/a.png"] * 20}
SOUND = {"jpg": [BYTES], "url": ["http://127.0.0.1:1/a.png"]}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.null()])
@pytest.mark.parametrize("name", ["jpg", "image"])
def test_bytes_that_begin_behind_the_first_rows_are_found(tmp_path, kind, name):
    for number, rows in enumerate([FAILED, SOUND]):
        table = pa.table({name: rows["jpg"], "url": rows["url"]})
        if rows is FAILED:
            table = table.set_column(0, name, table[name].cast(kind))
        pq.write_table(table, tmp_path / f"{number}.parquet")
    source = opened(tmp_path)
    assert source.settings()["columns"]["image"] == name
    assert images_of_last(source) == (BYTES,)


def test_a_saved_dataset_whose_first_images_are_missing(tmp_path):
    image = [None] * 20 + [{"bytes": BYTES, "path": None}]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(image, kind), "url": ["http://127.0.0.1:1/a.png"] * 21})
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    assert images_of_last(opened(tmp_path / "saved")) == (BYTES,)


@pytest.mark.parametrize("empty", [pa.table({}), pa.table(FAILED).slice(0, 0)])
def test_the_first_file_may_be_empty(tmp_path, empty):
    pq.write_table(empty, tmp_path / "0.parquet")
    pq.write_table(pa.table({**SOUND, "key": ["a"]}), tmp_path / "1.parquet")
    source = opened(tmp_path, columns=Columns(id="key"))
    assert source.settings()["columns"]["image"] == "jpg"
    assert images_of_last(source) == (BYTES,)


def test_the_column_of_ids_may_hold_the_images_as_well(tmp_path):
    (tmp_path / "a.png").write_bytes(BYTES)
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "label": "cat"}\n')
    assert images(opened(tmp_path / "rows.jsonl", columns=Columns(id="image"))) == {"a.png": (BYTES,)}
    assert image_column({"path": ["a.png"], "url": ["http://a/b.png"]}, "rows", id_column="path") == "url"


def images_of_last(source):
    (content,) = source.read([*source.entries()][-1:])
    return content.images


def test_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([[BYTES], ["a"], ["b"]], names=["image", "text", "text"]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="several columns named 'text'"):
        opened(tmp_path / "rows.parquet")
