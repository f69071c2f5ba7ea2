"""Parquet files and saved datasets."""

import json
import pickle
import uuid

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Content, Question
from visionsplit_batch.sources import Columns

from tests.unit.batch.source_checks import images, opened, png, read_all


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def table(rows, **more):
    return pa.table({"image": [png(number) for number in range(rows)], **more})


def test_bytes_in_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(table(3, name=["a", "b", "c"], ask=["A?", "B?", "C?"], n=[1, None, 3]), path)
    source = opened(path, columns=Columns(id="name", prompt="ask"))
    assert read_all(source)["c"] == Content((png(2),), questions=(Question("C?"),), fields={"n": 3})
    assert source.settings()["columns"] == {"id": "name", "image": "image", "prompt": "ask", "fields": None}
    assert list(read_all(opened(path))) == ["row 0", "row 1", "row 2"]
    assert read_all(opened(path, columns=Columns(fields=("n",))))["row 0"] == Content((png(0),), fields={"n": 1})


def test_paths_and_the_datasets_librarys_structs_in_parquet(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(5))
    pq.write_table(pa.table({"image_path": ["a.png", "gone.png"]}), tmp_path / "paths.parquet")
    sound, gone = read_all(opened(tmp_path / "paths.parquet")).values()
    assert sound == Content((png(5),))
    assert gone.error == "FileNotFoundError"
    dataset = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(1), "path": "x.png"}, {"bytes": None, "path": "a.png"}]}
    )
    monkeypatch.chdir(tmp_path)  # the library looks for a.png there
    dataset.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "hub.parquet"))
    assert images(opened(tmp_path / "hub.parquet")) == {"row 0": (png(1),), "row 1": (png(5),)}


@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_row_groups_are_read_in_any_pieces(tmp_path, at_once):
    pq.write_table(table(100, n=range(100)), tmp_path / "rows.parquet", row_group_size=40)
    source = opened(tmp_path / "rows.parquet")
    rows = read_all(source, at_once)
    assert rows == {f"row {n}": Content((png(n),), fields={"n": n}) for n in range(100)}
    entries = list(source.entries())
    backwards = [content for entry in reversed(entries) for content in source.read([entry])]
    assert backwards == list(reversed(rows.values()))
    scattered = [entries[number] for number in (99, 0, 41, 39, 40, 79)]
    assert [content.fields["n"] for content in source.read(scattered)] == [99, 0, 41, 39, 40, 79]


def test_only_the_columns_that_are_needed_are_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(
        table(50, name=[f"r{n}" for n in range(50)], large=[bytes(1000) for _ in range(50)]),
        path,
        compression="none",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = bytes(
        column.total_compressed_size
    )
    path.write_bytes(data)  # a column that cannot be read any more
    rows = read_all(opened(path, columns=Columns(id="name", fields=())))
    assert rows["r49"] == Content((png(49),))
    assert {row.stage for row in read_all(opened(path, columns=Columns(id="name"))).values()} == {"read"}


def test_folders_globs_and_stores_of_parquet(tmp_path):
    store = f"memory://{uuid.uuid4().hex}"
    for number, name in enumerate(["b.parquet", "a.parquet"]):
        pq.write_table(table(2, n=[number, number]), tmp_path / name)
        with fsspec.open(f"{store}/{name}", "wb") as file:
            file.write((tmp_path / name).read_bytes())
    names = ["a.parquet row 0", "a.parquet row 1", "b.parquet row 0", "b.parquet row 1"]
    assert list(read_all(opened(tmp_path))) == names
    assert read_all(opened(store)) == read_all(opened(tmp_path))
    assert list(read_all(opened(f"{tmp_path}/a.*"))) == [f"{tmp_path}/{name}" for name in names[:2]]


def test_odd_ids_fail_their_rows(tmp_path):
    pq.write_table(table(3, name=["a", None, ""]), tmp_path / "rows.parquet")
    rows = read_all(opened(tmp_path / "rows.parquet", columns=Columns(id="name")))
    assert list(rows) == ["a", "row 1", "row 2"]
    assert rows["a"].images == (png(0),)
    assert "the id in 'name' is None" in rows["row 1"].message
    pq.write_table(table(2, name=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"'a' comes twice: row 0 of .*rows.parquet and row 1 of"):
        list(opened(tmp_path / "rows.parquet", columns=Columns(id="name")).entries())


def test_a_file_that_changed_after_the_listing(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(table(5), path)
    source = opened(path)
    entries = list(source.entries())
    pq.write_table(table(2), path)
    assert [type(content).__name__ for content in source.read(entries)] == ["Content"] * 2 + ["Failure"] * 3
    path.write_bytes(b"no parquet")
    another = pickle.loads(pickle.dumps(source))  # which has not opened it before
    assert {content.error for content in another.read(entries)} == {"ArrowInvalid"}
    with pytest.raises(InputError, match="cannot be read as parquet"):
        opened(path)


def dataset(count):
    columns = {
        "image": [{"bytes": png(n % 256), "path": None} for n in range(count)],
        "n": range(count),
        "q": ["?"] * count,
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def test_a_saved_dataset(tmp_path):
    dataset(25).save_to_disk(tmp_path / "saved", num_shards=3)
    source = opened(tmp_path / "saved", columns=Columns(prompt="q"))
    assert read_all(source) == {
        f"row {n}": Content((png(n),), questions=(Question("?"),), fields={"n": n}) for n in range(25)
    }
    assert source.settings()["format"] == "huggingface"
    assert list(read_all(opened(tmp_path / "saved", columns=Columns(id="n", fields=()))))[-1] == "24"
    with pytest.raises(InputError, match=r"'\?' comes twice: row 0 of .*saved and row 1 of .*saved"):
        list(opened(tmp_path / "saved", columns=Columns(id="q")).entries())


def test_a_saved_dataset_of_several_batches_and_after_a_selection(tmp_path):
    rows = dataset(2500).select(range(0, 2500, 2))
    rows.save_to_disk(tmp_path / "saved")
    contents = read_all(opened(tmp_path / "saved"), at_once=100)
    assert [content.fields["n"] for content in contents.values()] == list(range(0, 2500, 2))
    assert contents["row 1249"].images == (png(2498 % 256),)


def test_splits(tmp_path):
    both = datasets.DatasetDict({"train": dataset(3), "test": dataset(2)})
    both.save_to_disk(tmp_path / "saved")
    assert len(read_all(opened(tmp_path / "saved", split="test"))) == 2
    assert len(read_all(opened(tmp_path / "saved" / "train"))) == 3
    with pytest.raises(InputError, match="has the splits train, test; name one"):
        opened(tmp_path / "saved")
    with pytest.raises(InputError, match="there is no 'dev'"):
        opened(tmp_path / "saved", split="dev")
    with pytest.raises(InputError, match="has no splits; leave out the split 'train'"):
        opened(tmp_path / "saved" / "train", split="train")


def test_a_saved_dataset_that_is_broken(tmp_path):
    dataset(3).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    source = opened(tmp_path / "saved")
    entries = list(source.entries())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert {content.stage for content in source.read(entries)} == {"read"}
    with pytest.raises(InputError, match="cannot be read"):
        list(source.entries())
    file.write_bytes(b"no arrow")
    with pytest.raises(InputError, match="is not an Arrow stream"):
        opened(tmp_path / "saved")
    file.unlink()
    with pytest.raises(InputError, match="is missing"):
        opened(tmp_path / "saved")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="no data files; save the dataset again"):
        opened(tmp_path / "saved")
