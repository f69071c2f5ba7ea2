"""Tiles, features and scores against Hugging Face's own processor and vision tower."""

import json

import pytest
import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape
from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import UnpadRule
from visionsplit.options.compression import Compression

from encoder_service.compression import TowerOutput, select
from tests.checkpoints import tiny_checkpoint
from tests.unit.encoder.helpers import drawn_image
from tests.unit.encoder.reference_globalcom2 import globalcom2

CLS = frozenset({TowerOutput.SALIENCE})
SIZES = [(1, 1), (3, 3), (1, 7), (56, 56), (57, 112), (300, 200), (200, 300)]
STRIPS = [(640, 90), (90, 640), (3000, 20), (20, 3000)]


def load(folder, dtype=torch.float32):
    checkpoint = Checkpoint(str(folder))
    return checkpoint, VisionTower.load(checkpoint, dtype=dtype, device=torch.device("cpu"))


def whole_tower(folder):
    return LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).model.vision_tower


def scores_by_head(tower, tiles):
    """The definition: mean over heads of the scaled query of [CLS] times the keys, in the last layer."""
    states = tower(tiles, output_hidden_states=True).hidden_states
    layer = tower.encoder.layers[-1]
    normed = layer.layer_norm1(states[len(tower.encoder.layers) - 1])
    heads = layer.self_attn.num_heads
    batch, length, width = normed.shape
    query = layer.self_attn.q_proj(normed)[:, 0].view(batch, heads, -1) * (width // heads) ** -0.5
    key = layer.self_attn.k_proj(normed)[:, 1:].view(batch, length - 1, heads, -1)
    return torch.einsum("bhd,bphd->bhp", query, key).mean(1)


@pytest.mark.parametrize("layer", [-2, -1, 0, 2, [-2, 1], [-4, -2]])
def test_features_and_scores_equal_the_whole_tower(tmp_path, layer):
    folder = tiny_checkpoint(tmp_path, model={"vision_feature_layer": layer})
    _, tower = load(folder)
    whole = whole_tower(folder)
    tiles = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states = whole(tiles, output_hidden_states=True).hidden_states
        chosen = [layer] if isinstance(layer, int) else layer
        expected = torch.cat([states[index] for index in chosen], dim=-1)[:, 1:]
        scores = scores_by_head(whole, tiles)
    encoded = tower(tiles, CLS)
    assert torch.equal(encoded.features, expected)
    assert tower.feature_size == expected.shape[-1]
    torch.testing.assert_close(encoded.outputs[TowerOutput.SALIENCE], scores, rtol=1e-5, atol=1e-6)
    bare = tower(tiles, frozenset())
    assert torch.equal(bare.features, expected)
    assert not bare.outputs


def test_half_precision_scores_have_full_precision(random_checkpoints):
    _, tower = load(random_checkpoints["llama"], torch.bfloat16)
    encoded = tower(torch.randn(2, 3, 56, 56), CLS)
    assert encoded.features.dtype is torch.bfloat16
    assert encoded.outputs[TowerOutput.SALIENCE].dtype is torch.float32


def test_nothing_unused_is_held(random_checkpoints):
    _, tower = load(random_checkpoints["llama"])
    whole = whole_tower(random_checkpoints["llama"])
    held = {name for name, _ in tower.named_parameters()}
    assert not any(name.startswith(("layers.3.", "post_layernorm")) for name in held)
    assert {name for name in held if name.startswith("score_head")} == {
        f"score_head.{part}.{kind}" for part in ("layer_norm1", "q_proj", "k_proj") for kind in ("weight", "bias")
    }
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize(("width", "height"), SIZES + STRIPS)
def test_tiles_equal_the_processors(random_checkpoints, width, height):
    folder = random_checkpoints["llama"]
    checkpoint, tower = load(folder)
    image = drawn_image(width, height)
    tiles = PaddedCanvasTiler(checkpoint).cut(image, UnpadRule.HUGGING_FACE)
    processed = LlavaNextProcessor.from_pretrained(folder)(images=image, text="<image>", return_tensors="pt")
    assert torch.equal(tower.levels(tiles.pixels), processed["pixel_values"][0])
    rows, columns = get_anyres_image_grid_shape((height, width), checkpoint.config.image_grid_pinpoints, 56)
    assert (tiles.grid.rows, tiles.grid.columns) == (rows, columns)
    assert processed["image_sizes"].tolist() == [[tiles.grid.image_height, tiles.grid.image_width]]


@pytest.mark.parametrize("pinpoints", [[[112, 112], [56, 112], [112, 56]], [[112, 56], [56, 168]]])
def test_a_size_alone_says_how_many_tiles_an_image_makes_at_most(tmp_path, pinpoints):
    """On its side too, since the header does not say how a camera was held."""
    tiler = PaddedCanvasTiler(Checkpoint(str(tiny_checkpoint(tmp_path, pinpoints=pinpoints))))
    assert tiler.cutting.max_tiles == 1 + max(rows * columns for rows, columns in tiler.cutting.grids)
    for width, height in SIZES:
        most = tiler.cutting.most_tiles(width, height)
        counts = [
            tiler.cut(drawn_image(*size), UnpadRule.HUGGING_FACE).grid.num_tiles
            for size in ((width, height), (height, width))
        ]
        assert most == max(counts)


def test_globalcom2_on_a_random_tower(random_checkpoints):
    """From pixels to kept tokens, with the scores by their definition on the other side."""
    for text, folder in random_checkpoints.items():
        checkpoint, tower = load(folder)
        tiler, whole = PaddedCanvasTiler(checkpoint), whole_tower(folder)
        for seed, (width, height) in enumerate([(200, 200), (300, 180), (90, 260), (500, 140)]):
            tiles = tiler.cut(drawn_image(width, height, seed), UnpadRule.HUGGING_FACE)
            grid = tiles.grid
            kept = select(tower(tiles.pixels, CLS), grid, Compression("globalcom2", 0.4))
            with torch.no_grad():
                scores = scores_by_head(whole, tower.levels(tiles.pixels))
            ratios, budgets, tokens = globalcom2(
                scores,
                side=grid.side,
                rows=grid.rows,
                columns=grid.columns,
                width=width,
                height=height,
                ratio=0.4,
                reference=False,
            )
            assert kept.budgets == budgets, text
            assert kept.ratios == pytest.approx(ratios, rel=1e-5)
            assert [{tuple(p) for p in tile.tolist()} for tile in kept.positions] == [set(tile) for tile in tokens]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"vision_feature_select_strategy": "full"}, "'full'"),
        ({"vision_feature_layer": 9}, "vision_feature_layer is 9; the vision tower has 4 layers"),
    ],
)
def test_towers_that_cannot_be_used_are_refused(tmp_path, model, message):
    folder = tiny_checkpoint(tmp_path, model=model)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("layers", [[-2, 1], [1, -2], [1, 3, 2]])
def test_of_several_feature_layers_the_deepest_is_rated_by(tmp_path, layers):
    """In whatever order a checkpoint lists them: the same keys and attention as with the deepest one alone."""
    outputs = frozenset({TowerOutput.CLS_ATTENTION, TowerOutput.KEYS})
    tiles = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    folder = tiny_checkpoint(tmp_path, model={"vision_feature_layer": -2})
    deepest = load(folder)[1](tiles, outputs)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_feature_layer": layers}))
    encoded = load(folder)[1](tiles, outputs)
    for output in outputs:
        assert torch.equal(encoded.outputs[output], deepest.outputs[output])
    last = [index % 5 for index in layers].index(3)
    assert torch.equal(encoded.features.unflatten(2, (len(layers), -1))[:, :, last], deepest.features)


def test_a_tile_is_scored_alike_in_any_company(random_checkpoints):
    """To the last bit: the same layer input, alone or among others, at any place of a batch."""
    _, tower = load(random_checkpoints["llama"])
    states = torch.randn(9, 17, 32, generator=torch.Generator().manual_seed(0))  # [B, 1 + P, D]
    with torch.inference_mode():
        alone = torch.cat([tower.score_head(state[None]) for state in states])
        for size in range(1, 9):
            for first in range(10 - size):
                batch = tower.score_head(states[first : first + size])
                assert torch.equal(batch, alone[first : first + size]), (size, first)
