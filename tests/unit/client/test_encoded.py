"""Encoding, storing and asking about stored tokens."""

import json
import struct

import numpy as np
import pytest
from safetensors import safe_open
from visionsplit import errors
from visionsplit_client import Compression, Encoded, EncodedImage, EncodeStarted, Pruning, TokensArrived

from tests.token_files import read_file, write_file
from tests.unit.client.fakes import FORMAT, GRID, WORDS

DATA_TYPES = ("float32", "float16", "bfloat16", "int8")


def test_encode_gives_checked_tokens(client, image_path):
    image = client.encode(image_path, Compression(retention_ratio=0.25, layout="reference"), data_type="float16")
    assert image.tokens.grid == GRID
    assert image.tokens.budgets == tuple(int(count * 0.25) for count in GRID.valid_counts())
    assert image.tokens.positions.shape == (sum(image.tokens.budgets), 3)
    assert image.layout == "reference"
    assert image.data_type == "float16"
    assert image.format.encoder_fingerprint == FORMAT.encoder_fingerprint
    assert image.summary.tokens_after == image.tokens.num_tokens


def test_encode_stream_gives_tokens_as_they_come(client, image_path):
    with client.encode_stream(image_path, Compression(retention_ratio=0.5)) as stream:
        started, *parts, last = list(stream)
    assert isinstance(started, EncodeStarted)
    assert isinstance(last, Encoded)
    assert len(parts) > 1
    assert all(isinstance(part, TokensArrived) for part in parts)
    assert np.array_equal(np.concatenate([part.positions for part in parts]), last.image.tokens.positions)
    features = np.concatenate([part.features.to_float32() for part in parts])
    assert np.array_equal(features, last.image.tokens.features.to_float32())


def test_an_encoding_without_summary_is_an_error(client, services, image_path):
    services.encoder.script.omit_summary = True
    with pytest.raises(errors.InternalError, match="incomplete"):
        client.encode(image_path)


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_stored_tokens_come_back_equal(client, image_path, tmp_path, data_type):
    asked = Compression(retention_ratio=0.3, score="local", parameters={"tau": 5.0})
    image = client.encode(image_path, asked, data_type=data_type)
    image.save(tmp_path / "tokens.safetensors")
    loaded = EncodedImage.load(tmp_path / "tokens.safetensors")
    assert loaded.tokens.features == image.tokens.features
    assert np.array_equal(loaded.tokens.positions, image.tokens.positions)
    assert loaded.tokens.budgets == image.tokens.budgets
    assert (loaded.format, loaded.layout, loaded.compression) == (image.format, image.layout, asked)
    assert loaded.summary == image.summary


def test_tokens_from_before_families_are_read_and_those_of_an_unknown_one_refused(client, image_path):
    image = client.encode(image_path)
    metadata = image.to_metadata()
    for name in ("row_bounds", "column_bounds"):
        del metadata["grid"][name]
    del metadata["format"]["family"], metadata["feature_size"]
    assert EncodedImage.from_tensors(image.to_tensors(), metadata).format == image.format
    metadata["format"]["family"] = "someone-elses"
    with pytest.raises(errors.InvalidTokensError, match="family 'someone-elses', which this version does not know"):
        EncodedImage.from_tensors(image.to_tensors(), metadata)


def test_quotas_come_with_the_tokens_and_are_stored_with_them(client, services, image_path, tmp_path):
    asked = Compression(retention_ratio=0.25, quotas_only=True)
    quotas = tuple(int(count * 0.25) for count in GRID.valid_counts())
    with client.encode_stream(image_path, asked) as stream:
        assert next(event for event in stream if isinstance(event, EncodeStarted)).quotas == quotas
        image = stream.result().image
    assert image.tokens.quotas == quotas
    assert image.tokens.budgets == tuple(GRID.valid_counts())
    image.save(tmp_path / "tokens.safetensors")
    loaded = EncodedImage.load(tmp_path / "tokens.safetensors")
    assert (loaded.tokens.quotas, loaded.compression) == (quotas, asked)
    client.generate_from_tokens([image, loaded], "Same?", pruning=Pruning("fastv"))
    assert [tokens.quotas for tokens in services.llm.images] == [quotas, quotas]


def test_tokens_without_quotas_have_none_and_a_file_from_before_quotas_is_read(client, services, image_path, tmp_path):
    path = tmp_path / "tokens.safetensors"
    client.encode(image_path).save(path)
    tensors, metadata = read_file(path)
    document = json.loads(metadata["visionsplit"])
    assert document.pop("quotas") is None
    del document["compression"]
    write_file(path, tensors, metadata | {"visionsplit": json.dumps(document | {"compression": {"method": "none"}})})
    image = EncodedImage.load(path)
    assert (image.tokens.quotas, image.compression) == (None, Compression.none())
    client.generate_from_tokens(image, "What?")
    assert services.llm.images[0].quotas is None


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_the_safetensors_library_reads_the_file(client, image_path, tmp_path, data_type):
    image = client.encode(image_path, data_type=data_type)
    image.save(tmp_path / "tokens.safetensors")
    with safe_open(tmp_path / "tokens.safetensors", framework="pt") as file:
        features = file.get_tensor("features").float()
        if data_type == "int8":
            features = features * file.get_tensor("scales")[:, None]
        assert np.array_equal(features.numpy(), image.tokens.features.to_float32())
        assert np.array_equal(file.get_tensor("positions").numpy(), image.tokens.positions)


def test_generate_from_tokens_sends_what_was_encoded(client, services, image_path):
    image = client.encode(image_path, Compression(retention_ratio=0.5), data_type="int8")
    answer = client.generate_from_tokens(image, "What?")
    assert answer.text == "".join(WORDS)
    (received,) = services.llm.images
    assert received.features == image.tokens.features
    assert np.array_equal(received.positions, image.tokens.positions)
    assert answer.images == (image.summary,)
    (header,) = services.llm.script.requests
    assert header.format == FORMAT
    assert [part.WhichOneof("content") for part in header.prompt.chat.messages[0].parts] == ["image", "text"]


def test_generate_from_tokens_is_repeated_whole(client, services, image_path):
    image = client.encode(image_path)
    services.llm.script.failures = [errors.UnavailableError("draining")]
    assert client.generate_from_tokens(image, "What?").text == "".join(WORDS)
    assert services.llm.images[0].features == image.tokens.features


def test_images_for_different_layouts_are_refused(client, image_path):
    spatial = client.encode(image_path, Compression(layout="spatial"))
    reference = client.encode(image_path, Compression(layout="reference"))
    with pytest.raises(ValueError, match="different layouts"):
        client.generate_from_tokens([spatial, reference], "What?")


class TestDamagedFiles:
    @pytest.fixture
    def stored(self, client, image_path, tmp_path):
        path = tmp_path / "tokens.safetensors"
        client.encode(image_path, Compression(retention_ratio=0.25), data_type="bfloat16").save(path)
        return path

    def test_every_cut_is_noticed(self, stored):
        content = stored.read_bytes()
        for length in (0, 7, 8, 100, len(content) // 2, len(content) - 1):
            stored.write_bytes(content[:length])
            with pytest.raises(errors.InvalidTokensError):
                EncodedImage.load(stored)

    def test_bytes_behind_the_end_are_noticed(self, stored):
        stored.write_bytes(stored.read_bytes() + b"\0")
        with pytest.raises(errors.InvalidTokensError):
            EncodedImage.load(stored)

    @pytest.mark.parametrize(
        "change",
        [
            {"budgets": [1, 2, 3]},
            {"budgets": [0, 0, 0, 0, 0]},
            {"quotas": [1, 2, 3]},
            {"quotas": [0, 0, 0, 0, 0]},
            {"quotas": [60, 0, 0, 0, 0]},
            {"quotas": "many"},
            {"layout": "diagonal"},
            {"data_type": "float16"},
            {"data_type": 7},
            {"format": {"feature_size": 99, "encoder_fingerprint": "f"}},
            {"grid": {}},
            {"tokens_before": 4},
            {"timings": {}},
            {"compression": {"method": 5, "unknown": 1}},
        ],
        ids=str,
    )
    def test_wrong_metadata_is_noticed(self, stored, change):
        tensors, metadata = read_file(stored)
        metadata["visionsplit"] = json.dumps(json.loads(metadata["visionsplit"]) | change)
        write_file(stored, tensors, metadata)
        with pytest.raises(errors.InvalidTokensError):
            EncodedImage.load(stored)

    def test_a_header_nested_too_deeply_is_noticed(self, stored):
        tensors, metadata = read_file(stored)
        write_file(stored, tensors, metadata | {"visionsplit": "[" * 100_000})
        with pytest.raises(errors.InvalidTokensError):
            EncodedImage.load(stored)
        nested = b"[" * 100_000
        with pytest.raises(errors.InvalidTokensError):
            EncodedImage.from_bytes(struct.pack("<Q", len(nested)) + nested)

    def test_tensors_that_share_their_bytes_are_noticed(self, stored):
        content = stored.read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + length])
        places = sorted(
            (entry for name, entry in header.items() if name[0] != "_"), key=lambda one: one["data_offsets"]
        )
        size = places[1]["data_offsets"][1] - places[1]["data_offsets"][0]
        places[1]["data_offsets"] = [0, size]
        changed = json.dumps(header).encode()
        stored.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])
        with pytest.raises(errors.InvalidTokensError, match="begins at byte"):
            EncodedImage.load(stored)

    def test_another_safetensors_file_is_refused(self, stored):
        tensors, _ = read_file(stored)
        write_file(stored, tensors, {})
        with pytest.raises(errors.InvalidTokensError, match="visionsplit-tokens"):
            EncodedImage.load(stored)

    def test_a_missing_file_stays_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            EncodedImage.load(tmp_path / "none")
