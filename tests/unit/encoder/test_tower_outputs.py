"""The vision tower's outputs for compression methods, compared with the whole model with attention maps."""

import pytest
import torch
from transformers import LlavaNextForConditionalGeneration
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.cls_attention import cls_attention, patch_keys
from visionsplit.families.llava_next.vision_tower import VisionTower

from encoder_service.compression import TowerOutput
from tests.checkpoints import tiny_checkpoint

HEADS = 4
ALL = frozenset(TowerOutput) - {TowerOutput.TEXT_RELEVANCE}  # which the text tower gives


def load(folder, dtype=torch.float32):
    return VisionTower.load(Checkpoint(str(folder)), dtype=dtype, device=torch.device("cpu"))


def expected_outputs(folder, tiles, layer):
    """By the whole tower: its attention maps, and the queries and keys that hooks see; `layer` put out the features."""
    model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tower = model.model.vision_tower
    seen = {}
    for number, block in enumerate(tower.encoder.layers):
        for name in ("q_proj", "k_proj"):
            getattr(block.self_attn, name).register_forward_hook(
                lambda _module, _inputs, output, place=(name, number): seen.update({place: output})
            )
    with torch.no_grad():
        attentions = tower(tiles, output_attentions=True).attentions  # each [B, H, 1 + P, 1 + P]
    last = len(tower.encoder.layers) - 1
    query, keys = seen["q_proj", last][:, 0], seen["k_proj", last]  # [B, D], [B, 1 + P, D]
    width = query.shape[-1]
    size = width // HEADS
    by_head = [
        torch.stack([tile_keys @ tile_query / size**0.5 for tile_keys, tile_query in zip(k, q, strict=True)])
        for k, q in zip(keys.split(size, dim=-1), query.split(size, dim=-1), strict=True)
    ]
    affinity = torch.stack([(k @ q / width**0.5).softmax(dim=0) for k, q in zip(keys, query, strict=True)])
    return {
        TowerOutput.SALIENCE: sum(by_head)[:, 1:] / HEADS,
        TowerOutput.CLS_ATTENTION: attentions[layer][:, :, 0, 1:].mean(dim=1),
        TowerOutput.CLS_ATTENTION_FIRST: attentions[0][:, :, 0, 1:].mean(dim=1),
        TowerOutput.CLS_AFFINITY: affinity[:, 1:],
        TowerOutput.LAST_KEYS: keys[:, 1:],
        TowerOutput.KEYS: sum(seen["k_proj", layer].split(size, dim=-1))[:, 1:] / HEADS,
    }


@pytest.mark.parametrize(("feature_layer", "layer"), [(-2, 2), (-1, 3), (3, 2), (2, 1), (1, 0)])
@pytest.mark.parametrize("count", [1, 3])
def test_every_output_is_that_of_the_whole_tower(tmp_path, feature_layer, layer, count):
    folder = tiny_checkpoint(tmp_path, model={"vision_feature_layer": feature_layer})
    tiles = torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(count))
    outputs = load(folder)(tiles, ALL).outputs
    expected = expected_outputs(folder, tiles, layer)
    assert outputs.keys() == expected.keys() == ALL
    for output, values in expected.items():
        assert outputs[output].dtype is torch.float32
        torch.testing.assert_close(outputs[output], values, rtol=2e-5, atol=2e-6, msg=lambda text: f"{output}: {text}")  # noqa: B023


def test_an_output_does_not_change_with_what_else_is_asked_for(random_checkpoints):
    tower = load(random_checkpoints["llama"])
    tiles = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    together = tower(tiles, ALL)
    for output in ALL:
        alone = tower(tiles, frozenset({output}))
        assert alone.outputs.keys() == {output}
        assert torch.equal(alone.outputs[output], together.outputs[output])
        assert torch.equal(alone.features, together.features)


def test_half_precision_outputs_have_full_precision(random_checkpoints):
    encoded = load(random_checkpoints["llama"], torch.bfloat16)(torch.randn(1, 3, 56, 56), ALL)
    assert {values.dtype for values in encoded.outputs.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tiles_outputs_do_not_depend_on_its_company(random_checkpoints, dtype):
    """To the last bit: the same layer input, alone or among others, at any place of a batch."""
    tower = load(random_checkpoints["llama"], dtype)
    states = torch.randn(9, 17, 32, generator=torch.Generator().manual_seed(0)).to(dtype)  # [B, 1 + P, D]
    outputs = {
        "attention": lambda batch: cls_attention(tower.layers[1], batch),
        "keys": lambda batch: patch_keys(tower.layers[1], batch),
        "affinity": tower.score_head.affinity,
        "last keys": tower.score_head.keys,
        "logits": tower.score_head,
    }
    with torch.inference_mode():
        for name, compute in outputs.items():
            alone = torch.cat([compute(state[None]) for state in states])
            for size in range(1, 9):
                for first in range(10 - size):
                    batch = compute(states[first : first + size])
                    assert torch.equal(batch, alone[first : first + size]), (name, size, first)
