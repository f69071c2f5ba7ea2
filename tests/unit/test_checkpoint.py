"""Checkpoints in all common forms: old and new tensor names, shards, the hub's cache; and refused ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from visionsplit.families.llava_next.vision_tower import VisionTower

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer
from tests.checkpoints import tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def tower_weights(source: Path | str) -> dict[str, torch.Tensor]:
    return VisionTower.load(Checkpoint(str(source)), dtype=torch.float32, device=CPU).state_dict()


def assert_same_half(source: Path | str, checkpoint: Path) -> None:
    expected, found = tower_weights(checkpoint), tower_weights(source)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert Checkpoint(str(source)).encoder_fingerprint() == Checkpoint(str(checkpoint)).encoder_fingerprint()


def renamed(key: str, style: str) -> str:
    """A tensor's name as other versions of transformers write it."""
    if style == "llava-hf":  # the published checkpoints
        return key.replace("vision_tower.", "vision_tower.vision_model.", 1)
    key = key.replace("language_model.lm_head", "lm_head")
    for part in ("language_model.model", "vision_tower", "multi_modal_projector", "image_newline"):
        key = key.replace(part, f"model.{part}", 1) if key.startswith(part) else key
    return key.replace("model.language_model.model", "model.language_model")


@pytest.mark.parametrize("style", ["llava-hf", "in memory"])
def test_tensor_names_of_other_versions(checkpoint: Path, copy: Path, style: str) -> None:
    tensors = load_file(copy / "model.safetensors")
    other = {renamed(key, style): tensor for key, tensor in tensors.items()}
    assert set(other) != set(tensors)
    save_file(other, copy / "model.safetensors")
    assert_same_half(copy, checkpoint)
    assert set(Checkpoint(str(copy)).tensor_names) == set(Checkpoint(str(checkpoint)).tensor_names)


def test_shards(checkpoint: Path, copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    weight_map = {}
    for index, key in enumerate(tensors):
        weight_map[key] = f"model-{index % 3}.safetensors"
    for name in set(weight_map.values()):
        save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, copy / name)
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_same_half(copy, checkpoint)


def test_a_hub_id_is_read_from_the_hubs_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0" * 40
    repository = tmp_path / "models--somebody--llava-next"
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.HF_HUB_CACHE", str(tmp_path), raising=False)
    opened = Checkpoint("somebody/llava-next")
    assert opened.name == "somebody/llava-next"
    assert_same_half("somebody/llava-next", checkpoint)


def test_the_fingerprint_follows_vision_weights_and_processor(checkpoint: Path, copy: Path) -> None:
    original = Checkpoint(str(checkpoint)).encoder_fingerprint()
    tensors = load_file(copy / "model.safetensors")
    tensors["language_model.lm_head.weight"] += 1
    save_file(tensors, copy / "model.safetensors")
    assert Checkpoint(str(copy)).encoder_fingerprint() == original  # the language half does not matter
    tensors["vision_tower.embeddings.class_embedding"][0] += 1e-3
    save_file(tensors, copy / "model.safetensors")
    changed = Checkpoint(str(copy)).encoder_fingerprint()
    assert changed != original
    settings = json.loads((copy / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"][0] += 0.01
    (copy / "processor_config.json").write_text(json.dumps(settings))
    assert Checkpoint(str(copy)).encoder_fingerprint() not in (original, changed)


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_what_cannot_be_split_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no file config\.json"):
        Checkpoint(str(tmp_path))
    edit_config(copy, quantization_config={"quant_method": "awq"})
    with pytest.raises(CheckpointError, match="quantised"):
        Checkpoint(str(copy))
    edit_config(copy, quantization_config=None, model_type="llama")
    with pytest.raises(CheckpointError, match=r"one of 'llava_next', .* is needed"):
        Checkpoint(str(copy))


def edit_processor(folder: Path, **changes: object) -> None:
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"].update(changes)
    (folder / "processor_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("edit", "changes", "says"),
    [
        (edit_config, {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        (edit_config, {"vision_feature_layer": 9}, "vision_feature_layer is 9; the vision tower has 4 layers"),
        (edit_config, {"vision_feature_layer": []}, r"vision_feature_layer is \[\]"),
        (edit_config, {"vision_config": {"model_type": "siglip_vision_model"}}, "the vision tower is 'siglip"),
        (edit_config, {"image_grid_pinpoints": [[112, 112]]}, "image_grid_pinpoints differ from the model's"),
        (edit_processor, {"crop_size": {"height": 70, "width": 70}}, "makes tiles of 70 x 70 pixels; .* takes 56 x 56"),
        (edit_processor, {"size": {"shortest_edge": 70}}, "resizes tiles to 70 x 70 pixels; .* takes 56 x 56"),
    ],
)
async def test_neither_service_starts_with_a_vision_half_that_the_encoder_cannot_serve(
    copy: Path, edit: Callable[..., None], changes: dict[str, object], says: str
) -> None:
    edit(copy, **changes)
    for server in (
        EncoderServer(EncoderConfig(str(copy), listen="127.0.0.1:0")),
        LlmServer(LlmConfig(str(copy), listen="127.0.0.1:0")),
    ):
        with pytest.raises(CheckpointError, match=says):
            await server.start()


def test_pickled_weights_are_not_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        Checkpoint(str(copy))


def test_a_missing_tensor_and_a_wrong_shape_are_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    taken = tensors.pop("vision_tower.pre_layrnorm.weight")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match="pre_layrnorm"):
        tower_weights(copy)
    save_file({**tensors, "vision_tower.pre_layrnorm.weight": taken[:-1].clone()}, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[31\], not \[32\]"):
        tower_weights(copy)


def without_folders(text: str) -> str:
    """The text itself, once it is known to be one line without a path."""
    assert "\n" not in text
    assert "/tmp" not in text
    return text


def test_a_damaged_file_is_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    for content, says in (
        (whole[: len(whole) // 2], "model.safetensors of checkpoint 'copy' is damaged or incomplete"),
        (b"", "model.safetensors of checkpoint 'copy' is damaged or incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run git lfs pull"),
    ):
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=says) as caught:
            Checkpoint(str(copy))
        without_folders(str(caught.value))


def test_a_damaged_or_missing_shard_is_named(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    weight_map = dict.fromkeys(tensors, "model-1.safetensors")
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"'copy' has no readable file model-1\.safetensors"):
        tower_weights(copy)
    (copy / "model-1.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors of checkpoint 'copy' is damaged or incomplete"):
        tower_weights(copy)
    for content in ("[]", "{", "{}", '{"weight_map": 3}'):
        index.write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json of checkpoint 'copy' is damaged"):
            Checkpoint(str(copy))


@pytest.mark.parametrize("content", ["{", "[1]", '{"model_type": "llava_next", "vision_config": 7}'])
def test_a_damaged_configuration_is_refused(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json of checkpoint 'copy' is damaged") as caught:
        Checkpoint(str(copy))
    without_folders(str(caught.value))


def test_a_damaged_image_processor_is_refused(copy: Path) -> None:
    settings = copy / "processor_config.json"
    for content in ("{", "[]", ""):
        settings.write_text(content)
        with pytest.raises(CheckpointError, match="checkpoint 'copy' has no readable image processor"):
            Checkpoint(str(copy)).image_processor()


def test_a_checkpoint_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "file.bin").write_bytes(b"")
    for name, says in (
        (str(tmp_path / "nowhere"), "^there is no folder 'nowhere'$"),
        ("./a/b", "^there is no folder 'b'$"),
        ("models/nowhere", "^there is no folder 'models/nowhere', and no such checkpoint on the hub"),
        (str(tmp_path / "file.bin"), "^'file.bin' is a file; a checkpoint is a folder or a hub id$"),
        ("", "^there is no folder ''"),
    ):
        with pytest.raises(CheckpointError, match=says) as caught:
            Checkpoint(name)
        without_folders(str(caught.value))


def test_a_folder_is_called_by_its_own_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    assert {Checkpoint(name).name for name in (".", "../copy", str(copy), f"{copy}/")} == {"copy"}
