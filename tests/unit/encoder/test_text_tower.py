"""The text tower against Hugging Face's CLIP: embeddings, relevance, and checkpoints that do not fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, PreTrainedTokenizerFast
from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import UnpadRule

from encoder_service.device.text_tower import TextTower, image_placeholder
from tests.checkpoints import tiny_checkpoint
from tests.clip_checkpoints import PIECE, llava_and_clip, tiny_clip
from tests.unit.encoder.helpers import drawn_image

CPU = torch.device("cpu")
TEXTS = ["cat", "What colour is the ball to the left of the red cube?"]  # of one piece and of several


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return llava_and_clip(tmp_path_factory.mktemp("clip"), seed=3)


def loaded(clip, llava, **options):
    return TextTower.load(str(clip), Checkpoint(str(llava)), revision=None, device=CPU, **options)


@pytest.fixture(scope="module")
def tower(checkpoints):
    llava, clip = checkpoints
    return loaded(clip, llava)


def expected_pieces(clip, text):
    """Each piece's embedding by the library, [pieces, E], not scaled."""
    model = CLIPModel.from_pretrained(clip).eval()
    ids = PreTrainedTokenizerFast.from_pretrained(clip)(text).input_ids
    pieces = []
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        missing = PIECE - len(piece)
        with torch.no_grad():
            output = model.get_text_features(
                input_ids=torch.tensor([piece + [0] * missing]),
                attention_mask=torch.tensor([[1] * len(piece) + [0] * missing]),
            )
        pieces.append(output.pooler_output[0].double().numpy())
    return np.array(pieces)


def unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("text", TEXTS)
def test_an_embedding_is_the_mean_of_its_pieces(checkpoints, tower, text):
    pieces = expected_pieces(checkpoints[1], text)
    assert (len(pieces) > 1) == (text == TEXTS[1])
    expected = np.mean([unit(piece) for piece in pieces], axis=0)
    np.testing.assert_allclose(tower.embed(text).numpy(), expected, atol=2e-6)


def test_the_old_way_to_find_a_texts_end_is_the_librarys(checkpoints, tmp_path):
    """Checkpoints whose configuration says 2 take the highest token of a piece for its end."""
    llava, _ = checkpoints
    clip = tiny_clip(tmp_path, llava, text={"eos_token_id": 2})
    expected = np.mean([unit(piece) for piece in expected_pieces(clip, TEXTS[1])], axis=0)
    np.testing.assert_allclose(loaded(clip, llava).embed(TEXTS[1]).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("text", TEXTS)
def test_relevance_is_the_negated_mean_cosine_in_clips_space(checkpoints, tower, text):
    llava, clip = checkpoints
    vision_tower = VisionTower.load(Checkpoint(str(llava)), dtype=torch.float32, device=CPU)
    samples = PaddedCanvasTiler(Checkpoint(str(llava))).cut(drawn_image(200, 120), UnpadRule.HUGGING_FACE).pixels
    tiles = vision_tower.levels(samples)
    features = vision_tower(samples, frozenset()).features
    relevance = tower.relevance(features, tower.embed(text)).numpy()

    model = CLIPModel.from_pretrained(clip).eval()
    with torch.no_grad():
        states = model.vision_model(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = model.visual_projection(model.vision_model.post_layernorm(states)).double().numpy()
    pieces = expected_pieces(clip, text)
    expected = np.empty(relevance.shape)
    for tile, cell in np.ndindex(*relevance.shape):
        expected[tile, cell] = -np.mean([unit(patches[tile, cell]) @ unit(piece) for piece in pieces])
    np.testing.assert_allclose(relevance, expected, atol=5e-6)
    assert np.ptp(expected) > 0.1


def test_a_tiles_relevance_does_not_depend_on_its_company(tower):
    features = torch.randn(5, 16, 32, generator=torch.Generator().manual_seed(0))
    text = tower.embed("a cat")
    whole = tower.relevance(features, text)
    for first, stop in ((0, 1), (1, 3), (4, 5)):
        assert torch.equal(tower.relevance(features[first:stop], text), whole[first:stop])


def test_the_placeholder_of_an_image(checkpoints):
    assert image_placeholder(Checkpoint(str(checkpoints[0]))) == "<image>"


# --- checkpoints


@pytest.fixture
def copied(checkpoints, tmp_path):
    """A CLIP checkpoint that may be spoilt."""
    return checkpoints[0], shutil.copytree(checkpoints[1], tmp_path / "copied")


def rewrite(clip, change):
    tensors = load_file(clip / "model.safetensors")
    change(tensors)
    save_file(tensors, clip / "model.safetensors", {"format": "pt"})


def test_nothing_but_what_is_needed_is_read(copied, tower):
    llava, clip = copied

    def drop(tensors):
        for name in list(tensors):
            if name.startswith("vision_model.encoder") or name == "logit_scale":
                del tensors[name]

    rewrite(clip, drop)
    assert torch.equal(loaded(clip, llava).embed("a cat"), tower.embed("a cat"))


def test_a_checkpoint_in_several_files(checkpoints, tower, tmp_path):
    llava, _ = checkpoints
    clip = tiny_clip(tmp_path, llava, max_shard_size="60KB")
    assert len(list(clip.glob("*.safetensors"))) > 1
    assert torch.equal(loaded(clip, llava).embed("a cat"), tower.embed("a cat"))


def test_weights_that_were_trained_further_are_taken(copied):
    llava, clip = copied
    name = "vision_model.embeddings.patch_embedding.weight"
    rewrite(clip, lambda tensors: tensors[name].add_(torch.randn_like(tensors[name]) * tensors[name].std() * 0.1))
    loaded(clip, llava)


def test_a_checkpoint_that_is_no_clip(checkpoints):
    with pytest.raises(CheckpointError, match="'llava' is 'llava_next'; 'clip' is needed"):
        loaded(checkpoints[0], checkpoints[0])


def test_another_vision_tower_of_the_same_shape(checkpoints, tmp_path):
    other = tiny_checkpoint(tmp_path, seed=4)
    with pytest.raises(CheckpointError, match="was not trained from that of checkpoint 'clip': the cosine"):
        loaded(checkpoints[1], other)


def test_another_shape_of_vision_tower(checkpoints, tmp_path):
    wide = tiny_checkpoint(tmp_path, vision={"hidden_size": 48})
    with pytest.raises(CheckpointError, match="'clip' has hidden_size 32, the vision tower 48"):
        loaded(checkpoints[1], wide)


def test_features_of_several_layers(checkpoints, tmp_path):
    several = tiny_checkpoint(tmp_path, model={"vision_feature_layer": [-3, -2]})
    with pytest.raises(CheckpointError, match=r"needs features of one layer; vision_feature_layer is \[-3, -2\]"):
        loaded(checkpoints[1], several)


@pytest.mark.parametrize(
    "name", ["text_projection.weight", "visual_projection.weight", "vision_model.post_layernorm.bias"]
)
def test_a_missing_tensor(copied, name):
    llava, clip = copied
    rewrite(clip, lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"'copied' has no tensor '{name}'"):
        loaded(clip, llava)


def test_a_missing_tokenizer(copied):
    llava, clip = copied
    for file in clip.glob("token*.json"):
        file.unlink()
    with pytest.raises(CheckpointError, match="'copied' has no tokenizer: none of"):
        loaded(clip, llava)


def test_a_damaged_tokenizer(copied):
    llava, clip = copied
    (clip / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="'copied' has no usable tokenizer"):
        loaded(clip, llava)


def test_a_tokenizer_of_another_model(copied):
    llava, clip = copied
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["vocab_size"] -= 1
    (clip / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has token 356, which its text tower does not know"):
        loaded(clip, llava)
