"""Stored vision tokens: written by a job, read by the safetensors library and by another job."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from visionsplit.wire.stored_tensors import write_tensors
from visionsplit_batch.errors import InputError, OutputError
from visionsplit_batch.rows.records import TokenRecord
from visionsplit_batch.rows.rows import Content, Entry, Failure
from visionsplit_batch.sinks import TokensSink
from visionsplit_batch.sources.tokens import TokenShards
from visionsplit_batch.storage.storage import Storage
from visionsplit_client import EncodedImage, InvalidTokensError

from tests.token_files import read_file, write_file
from tests.unit.batch.outcomes import LABELS, encoded, encoded_image, same_tokens

DATA_TYPES = ("float32", "float16", "bfloat16", "int8")


def rows(data_type="float32", start=0) -> list[TokenRecord]:
    outcomes = [
        encoded(f"ü/{start} 雪.png", data_type=data_type, fields={"year": 1999, "tags": ["é"]}),
        encoded(f"{start + 1}", images=3, data_type=data_type, ratio=0.3),
        encoded(f"caf\udce9 {start + 2}", data_type=data_type),
    ]
    return [TokenRecord.of(outcome) for outcome in outcomes]


def write(path, records):
    TokensSink(Storage(), LABELS, rows_per_part=64).write(str(path), records)
    return path


@pytest.fixture
def shard(tmp_path):
    return write(tmp_path / "part-00000.safetensors", rows("bfloat16"))


def source(path) -> TokenShards:
    return TokenShards(str(path), Storage())


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_rows_come_back_equal(tmp_path, data_type):
    written = rows(data_type)
    shards = source(write(tmp_path / "part.safetensors", iter(written)))
    entries = list(shards.entries())
    assert [entry.id for entry in entries] == [record.id for record in written]
    for record, content in zip(written, shards.read(entries), strict=True):
        assert isinstance(content, Content)
        assert (content.fields, content.images, content.questions) == (record.fields, (), ())
        assert len(content.tokens) == len(record.images)
        assert all(map(same_tokens, content.tokens, record.images))


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_the_safetensors_library_reads_a_shard(tmp_path, data_type):
    written = rows(data_type)
    with safe_open(write(tmp_path / "part.safetensors", written), framework="pt") as file:
        metadata = file.metadata()
        assert (metadata["format"], metadata["rows"]) == ("visionsplit-token-shard/1", "3")
        assert (metadata["model"], metadata["method"], metadata["run"]) == (LABELS.model, LABELS.method, LABELS.run)
        for number, record in enumerate(written):
            row = json.loads(metadata[str(number)])
            assert (row["id"], row["fields"], len(row["images"])) == (record.id, record.fields, len(record.images))
            for index, image in enumerate(record.images):
                features = file.get_tensor(f"{number}.{index}.features").float()
                if data_type == "int8":
                    features = features * file.get_tensor(f"{number}.{index}.scales")[:, None]
                assert np.array_equal(features.numpy(), image.tokens.features.to_float32())
                positions = file.get_tensor(f"{number}.{index}.positions").numpy()
                assert np.array_equal(positions, image.tokens.positions)


def test_equal_rows_give_equal_bytes(tmp_path, shard):
    assert write(tmp_path / "again", rows("bfloat16")).read_bytes() == shard.read_bytes()


def test_a_part_without_rows_is_a_shard_without_entries(tmp_path):
    path = write(tmp_path / "part-00000.safetensors", [])
    with pytest.raises(InputError, match="has no rows"):
        list(source(path).entries())
    write(tmp_path / "part-00001.safetensors", rows())
    assert len(list(source(tmp_path).entries())) == 3
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == []


def test_an_error_on_the_way_leaves_no_file(tmp_path):
    def broken():
        yield rows()[0]
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        write(tmp_path / "part.safetensors", broken())
    assert list(tmp_path.iterdir()) == []


def test_rows_whose_header_safetensors_does_not_allow_are_refused(tmp_path):
    long = TokenRecord("a", (encoded_image(),), {"text": "x" * 100_000_000})
    with pytest.raises(OutputError, match="1 rows are too many for one file of tokens"):
        write(tmp_path / "part.safetensors", [long])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_shard_by_shard_and_in_any_order(tmp_path):
    write(tmp_path / "part-00001.safetensors", rows(start=3))
    write(tmp_path / "part-00000.safetensors", rows(start=0))
    (tmp_path / "errors.jsonl").write_text("")
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "settings.json").write_text("{}")
    written = rows(start=0) + rows(start=3)
    shards = pickle.loads(pickle.dumps(source(tmp_path)))
    entries = list(shards.entries())
    assert [entry.id for entry in entries] == [record.id for record in written]
    order = [5, 0, 4, 1, 1]
    contents = list(shards.read([entries[index] for index in order]))
    assert len(contents) == len(order)
    for index, content in zip(order, contents, strict=True):
        assert all(map(same_tokens, content.tokens, written[index].images))
    assert shards.settings() == source(tmp_path).settings()
    json.dumps(shards.settings())


class TestBrokenShards:
    @pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
    def test_one_that_is_cut_short_cannot_be_listed(self, shard, length):
        shard.write_bytes(shard.read_bytes()[:length])
        with pytest.raises(InputError, match=f"{shard} cannot be read as a file of vision tokens: "):
            list(source(shard).entries())

    def test_one_images_file_is_no_shard(self, tmp_path):
        encoded_image().save(tmp_path / "tokens.safetensors")
        with pytest.raises(InputError, match="it holds 'visionsplit-tokens/1', not 'visionsplit-token-shard/1'"):
            list(source(tmp_path).entries())

    def test_rows_that_the_metadata_lacks_are_noticed(self, shard):
        tensors, metadata = read_file(shard)
        write_file(shard, tensors, {**metadata, "rows": "4"})
        with pytest.raises(InputError, match="it has no row 3"):
            list(source(shard).entries())

    def test_what_has_no_shards_is_no_input(self, tmp_path):
        with pytest.raises(InputError, match="has no rows"):
            list(source(tmp_path).entries())
        with pytest.raises(InputError, match="does not exist"):
            list(source(tmp_path / "none").entries())

    def test_an_id_that_comes_twice_is_named(self, tmp_path, shard):
        shutil.copy(shard, tmp_path / "part-00001.safetensors")
        with pytest.raises(InputError, match=r"'ü/0 雪.png' comes twice: row 0 of .*00000.* and row 0 of .*00001"):
            list(source(tmp_path).entries())

    @pytest.mark.parametrize(
        "change",
        [
            {"budgets": [1, 2, 3]},
            {"layout": "diagonal"},
            {"data_type": "float16"},
            {"grid": {}},
            {"format": {"feature_size": 99, "encoder_fingerprint": "f"}},
        ],
        ids=str,
    )
    def test_a_broken_row_fails_alone(self, shard, change):
        tensors, metadata = read_file(shard)
        row = json.loads(metadata["1"])
        row["images"][2] |= change
        write_file(shard, tensors, {**metadata, "1": json.dumps(row)})
        shards = source(shard)
        first, second, third = shards.read(list(shards.entries()))
        assert isinstance(first, Content)
        assert isinstance(third, Content)
        assert (second.error, second.stage) == ("InvalidTokensError", "read")
        assert f"row 1 of {shard} is broken: " in second.message

    def test_a_missing_tensor_fails_its_row(self, shard):
        tensors, metadata = read_file(shard)
        del tensors["1.2.features"]
        write_file(shard, tensors, metadata)
        shards = source(shard)
        kinds = [type(content) for content in shards.read(list(shards.entries()))]
        assert kinds == [Content, Failure, Content]

    def test_a_shard_that_has_gone_fails_its_rows_only(self, tmp_path, shard):
        write(tmp_path / "part-00001.safetensors", rows(start=3))
        shards = source(tmp_path)
        entries = list(shards.entries())
        shard.unlink()
        kinds = [getattr(content, "error", "read") for content in shards.read(entries)]
        assert kinds == ["FileNotFoundError"] * 3 + ["read"] * 3

    def test_another_row_in_its_place_is_noticed(self, shard):
        (failure,) = source(shard).read([Entry("other", str(shard), (0,))])
        assert "it is now that of 'ü/0 雪.png', not of 'other'" in failure.message
        (failure,) = source(shard).read([Entry("other", str(shard), (7,))])
        assert isinstance(failure, Failure)


class TestBytesOfOneImage:
    @pytest.mark.parametrize("data_type", DATA_TYPES)
    def test_they_are_what_a_file_has(self, tmp_path, data_type):
        image = encoded_image(1, data_type)
        image.save(tmp_path / "tokens.safetensors")
        assert image.to_bytes() == (tmp_path / "tokens.safetensors").read_bytes()
        assert same_tokens(EncodedImage.from_bytes(image.to_bytes()), image)

    def test_broken_ones_are_refused(self):
        content, empty = encoded_image().to_bytes(), io.BytesIO()
        write_tensors(empty, {}, {})
        for broken in (b"", content[:-1], content + b"\0", empty.getvalue()):
            with pytest.raises(InvalidTokensError, match="the content"):
                EncodedImage.from_bytes(broken)
