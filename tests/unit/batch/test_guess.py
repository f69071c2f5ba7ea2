"""Which column is taken for the images'."""

import base64

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from visionsplit_batch.errors import InputError
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
        ({"jpg": [b"broken"], "url": ["http://a/b.png"]}, "jpg"),
    ],
)
def test_bytes_before_paths_before_urls(samples, expected):
    assert image_column(samples, "rows") == expected


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        ({"a": ["b.png"], "c": [1]}, "no column of rows looks like the image's; name one with --image-column: a, c"),
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


def test_columns_of_one_name_are_refused(tmp_path):
    pq.write_table(pa.table([[BYTES], ["a"], ["b"]], names=["image", "text", "text"]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="several columns named 'text'"):
        opened(tmp_path / "rows.parquet")
