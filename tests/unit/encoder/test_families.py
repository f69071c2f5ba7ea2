"""Families beside LLaVA-NeXT: tiles and features as the library makes them, and tensors read by one half only."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from visionsplit.errors import InvalidCompressionError, InvalidTokensError
from visionsplit.families import FAMILIES
from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from visionsplit.families.tower_outputs import FROM_TEXT, TowerOutput
from visionsplit.grid import UnpadRule
from visionsplit.model.stored_model import StoredModel
from visionsplit.options.compression import Compression

from encoder_service.compression import Abilities, compose, listed_methods
from llm_service.replica.text_model import load_text_model
from tests import family_checkpoints
from tests.family_checkpoints import WholeFamilyModel
from tests.noise import noise_image

CPU = torch.device("cpu")
FLOAT32 = {"dtype": torch.float32, "device": CPU}
SIZES = [(56, 56), (112, 112), (113, 97), (57, 201), (333, 77), (640, 480), (1000, 5), (5, 1000), (1, 1), (290, 205)]
MAKERS = {
    "internvl": family_checkpoints.internvl,
    "smolvlm": family_checkpoints.smolvlm,
    "idefics3": lambda folder: family_checkpoints.smolvlm(folder, "idefics3"),
    "llava_onevision": family_checkpoints.llava_onevision,
    "aya_vision": family_checkpoints.aya_vision,
}


@pytest.fixture(params=MAKERS, scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WholeFamilyModel:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param))


def test_tiles_are_the_processors_to_the_bit(whole: WholeFamilyModel):
    checkpoint = Checkpoint(str(whole.path))
    tiler = checkpoint.family.tiler(checkpoint)
    half = checkpoint.family.encoder_half(checkpoint, **FLOAT32)
    for width, height in SIZES:
        image = noise_image(width, height)
        tiles = tiler.cut(image, UnpadRule.HUGGING_FACE)
        pixels = whole.inputs(whole.placeholder, [image])["pixel_values"]
        expected = pixels.flatten(0, -4)  # [T, 3, H, W]
        if checkpoint.family.name != "llava_onevision":
            expected = expected.roll(1, 0)  # the library has the thumbnail last
        assert torch.equal(half.levels(tiles.pixels), expected), (width, height)
        assert tiles.grid.num_tiles == len(expected)
        assert tiler.cutting.most_tiles(width, height) >= tiles.grid.num_tiles
        assert (tiles.grid.rows, tiles.grid.columns) in tiler.cutting.grids
        tiler.cutting.check(tiles.grid)
    assert len(tiles.pixels) <= tiler.cutting.max_tiles


def test_one_of_several_images_is_a_single_tile_for_llava_onevision(tmp_path: Path):
    whole = family_checkpoints.llava_onevision(tmp_path)
    checkpoint = Checkpoint(str(tmp_path))
    tiler = checkpoint.family.tiler(checkpoint)
    half = checkpoint.family.encoder_half(checkpoint, **FLOAT32)
    for width, height in [*SIZES, (48, 48), (20, 31), (700, 600), (9000, 3)]:
        image = noise_image(width, height)
        tiles = tiler.cut(image, UnpadRule.HUGGING_FACE, alone=False)
        pixels = whole.inputs(2 * whole.placeholder, [image, image])["pixel_values"]
        assert torch.equal(half.levels(tiles.pixels), pixels[0]), (width, height)
        assert tiler.cutting.most_tiles(width, height, alone=False) == tiles.grid.num_tiles == 1
        tiler.cutting.check(tiles.grid)


def test_the_square_of_a_long_strip_takes_little_memory(tmp_path: Path):
    family_checkpoints.llava_onevision(tmp_path)
    checkpoint = Checkpoint(str(tmp_path))
    tiler = checkpoint.family.tiler(checkpoint)
    for size in ((65_000, 2), (2, 65_000)):  # whose squares take 17 GB
        tiles = tiler.cut(Image.new("RGB", size, "white"), UnpadRule.HUGGING_FACE, alone=False)
        assert tiles.pixels.shape == (1, 3, 48, 48)


def test_a_hostile_grid_is_refused(whole: WholeFamilyModel):
    cutting = Checkpoint(str(whole.path)).cutting()
    good = cutting.grid_of(480, 640, rule=UnpadRule.HUGGING_FACE)
    cutting.check(good)
    most = 2**32 - 1
    for huge in (replace(good, image_height=most, image_width=most), replace(good, image_height=1, image_width=most)):
        with suppress(InvalidTokensError):  # some families cut an image of any size into as many crops
            cutting.check(huge)
    for bad in (
        replace(good, side=good.side + 1),
        replace(good, rows=7, columns=9),
        replace(good, valid=replace(good.valid, top=1)),
        replace(good, row_bounds=(0, 1), column_bounds=(0, 1)),
    ):
        with pytest.raises(InvalidTokensError):
            cutting.check(bad)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The canonical names of the tensors that are read."""
    names: set[str] = set()
    plain = StoredModel.read

    def recorded(self: StoredModel, wanted: list[str]):
        names.update(wanted)
        yield from plain(self, wanted)

    monkeypatch.setattr(StoredModel, "read", recorded)
    return names


def test_a_half_reads_its_own_tensors_whatever_they_are_called(whole: WholeFamilyModel, read: set[str], tmp_path: Path):
    for spelling in (str, hub_name):
        folder = tmp_path / spelling.__name__
        folder.mkdir()
        for file in whole.path.iterdir():
            if file.suffix != ".safetensors":
                (folder / file.name).write_bytes(file.read_bytes())
        tensors = load_file(whole.path / "model.safetensors")
        save_file({spelling(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
        checkpoint = Checkpoint(str(folder))
        read.clear()
        checkpoint.family.encoder_half(checkpoint, **FLOAT32)
        encoder = set(read)
        read.clear()
        checkpoint.family.language_half(checkpoint, **FLOAT32)
        load_text_model(checkpoint, **FLOAT32)
        language = set(read)
        # Where a connector is needed by images of both kinds, both halves have it.
        shared = encoder & language
        assert not shared or checkpoint.family.name == "llava_onevision"
        assert all(name.startswith("multi_modal_projector.") for name in shared)
        assert all(name.startswith(("vision_tower.", "multi_modal_projector.")) for name in encoder)
        assert not any(name.startswith("vision_tower.") for name in language)
        left = checkpoint.tensor_names - encoder - language
        # SigLIP's last norm is of no use to a model that reads the layer before it.
        assert all("post_layernorm" in name or "lm_head" in name for name in left)


def hub_name(name: str) -> str:
    """A tensor's name in files that older versions of the library wrote."""
    for new, old in (
        ("model.vision_tower.", "vision_tower.vision_model." if "siglip" in name else "vision_tower."),
        ("model.language_model.", "language_model.model."),
        ("language_model.model.", "language_model.model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def test_methods_that_need_cls_are_listed_where_there_is_one(whole: WholeFamilyModel):
    checkpoint = Checkpoint(str(whole.path))
    half = checkpoint.family.encoder_half(checkpoint, **FLOAT32)
    assert half.outputs in ({TowerOutput.SALIENCE}, frozenset(TowerOutput) - FROM_TEXT)
    methods = set(listed_methods(half.outputs))
    assert {"none", "globalcom2", "globalcom2-diverse", "divprune", "uniform", "random"} <= methods
    assert ("fastervlm" in methods) is (checkpoint.family.name == "internvl")
    assert "cdpruner" not in methods
    pixels = torch.rand(3, 3, *[checkpoint.cutting().tile_pixels] * 2)
    together = half(pixels, half.outputs)
    alone = half(pixels[1:2], half.outputs)
    for output, values in together.outputs.items():
        assert values.shape[:2] == together.features.shape[:2]
        assert values.dtype is torch.float32
        torch.testing.assert_close(values[1:2], alone.outputs[output], rtol=1e-4, atol=1e-5)


def test_a_part_that_needs_cls_is_named():
    abilities = Abilities(frozenset({TowerOutput.SALIENCE}), ("spatial",), whole_cell_regions=False)
    for asked, says in (
        (Compression("fastervlm", 0.5), "score 'cls_attention' of method 'fastervlm' reads the attention of "),
        (Compression("globalcom2", 0.5, merging="contextual"), "merging 'contextual' of method 'globalcom2' reads"),
        (Compression("globalcom2", 0.5, budget="attention_share"), "budget 'attention_share' of method 'globalcom2'"),
        (Compression("globalcom2", 0.5, layout="reference"), "layout 'reference' is not defined for this checkpoint"),
    ):
        with pytest.raises(InvalidCompressionError, match=says):
            compose(asked, abilities)
    assert compose(Compression("fastervlm", 1), abilities).retention_ratio == 1  # nothing is chosen


def test_internvls_scores_are_those_of_its_own_attention(tmp_path: Path):
    whole = family_checkpoints.internvl(tmp_path, "qwen3", qk_norm=True)
    checkpoint = Checkpoint(str(tmp_path))
    half = checkpoint.family.encoder_half(checkpoint, **FLOAT32)
    pixels = torch.rand(2, 3, 56, 56)
    tower = whole.model.model.vision_tower
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        maps = tower(pixels, output_attentions=True).attentions  # each [B, H, 1 + p, 1 + p]
    encoded = half(pixels, half.outputs)
    for output, attention in ((TowerOutput.CLS_ATTENTION, maps[-1]), (TowerOutput.CLS_ATTENTION_FIRST, maps[0])):
        patches = attention.mean(dim=1)[:, 0, 1:].unflatten(1, (4, 2, 4, 2))
        torch.testing.assert_close(encoded.outputs[output], patches.mean(dim=(2, 4)).flatten(1), rtol=1e-4, atol=1e-6)


def test_an_unsupported_model_is_refused_by_name(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    types = ", ".join(repr(model_type) for family in FAMILIES for model_type in family.model_types)
    with pytest.raises(CheckpointError, match=f"is 'qwen3_vl'; one of {types} is needed"):
        Checkpoint(str(tmp_path))


def test_a_head_that_differs_from_the_embeddings_is_not_tied(tmp_path: Path):
    """Published InternVL configurations do not say whether they are tied; the library then ties, and unties again."""
    whole = family_checkpoints.internvl(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint(str(tmp_path))
    assert checkpoint.config.tie_word_embeddings
    assert not checkpoint.tied_embeddings()
    model = load_text_model(checkpoint, **FLOAT32)
    assert torch.equal(model.lm_head.weight, whole.model.lm_head.weight)
