"""The vision tower's targets for tiles and patches, compared with values worked out by hand."""

import dataclasses
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from training.data.batches import LABEL, NUM_KINDS, PRICE, Batch, BatchConfig, Batches
from training.learning.targets import SLOTS, UNKNOWN, TowerTargets, tower_targets
from training.learning.tower_loss import TowerHeads
from training.model.checkpoint import Architecture
from training.scenes.vocabulary import CHARACTERS, COLOURS, KINDS

CAT, HEART = KINDS.index("cat"), KINDS.index("heart")
RED = list(COLOURS).index("red")
NONE = len(CHARACTERS)

# 1 x 2 crops of 56 pixels, 4 x 4 patches each. The image, 112 x 28, lies between 14 pixels of padding above and below.
# A cat stands in the first crop; a red heart has 14 of its 32 pixels in the first crop and 18 in the second.


def batch(**changes: Any) -> Batch:
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    made = Batch(
        rows=1,
        columns=2,
        tiles=torch.zeros(1, 3, 3, 56, 56, dtype=torch.uint8),
        boxes=torch.tensor([[[0.0, 0, 28, 28], [42, 0, 74, 28], [0, 0, 0, 0]]]),
        kinds=torch.tensor([[CAT, HEART, -1]]),
        colours=torch.tensor([[-1, RED, -1]]),
        characters=torch.tensor([[CHARACTERS.index("A"), CHARACTERS.index("B"), -1]]),
        centres=torch.tensor([[[7.5, 14.5], [73, 13], [0, 0]]]),
        fitted=torch.tensor([[112.0, 28]]),
        offset=torch.tensor([[0.0, 14]]),
        prefix_ids=nothing,
        prefix_rows=nothing,
        prefix_positions=nothing.float(),
        prefix_lengths=nothing[0],
        ids=nothing,
        labels=nothing,
        question=nothing,
        topic=nothing,
        offsets=nothing,
    )
    return dataclasses.replace(made, **changes)


def targets(architecture: Architecture, **changes: Any) -> TowerTargets:
    return tower_targets(batch(**changes), architecture)


def patches(found: torch.Tensor, value: int) -> list[list[tuple[int, int]]]:
    """Row and column of the patches [T, P] that have the value, by tile."""
    return [[divmod(int(place), 4) for place in (tile == value).nonzero()[:, 0]] for tile in found]


def test_an_item_is_in_a_tile_when_half_of_it_is_and_unknown_below(architecture: Architecture) -> None:
    kinds = targets(architecture).kinds[0]  # thumbnail, first crop, second crop
    assert kinds[:, CAT].tolist() == [1, 1, 0]
    assert kinds[:, HEART].tolist() == [1, -1, 1]
    others = [kind for kind in range(NUM_KINDS) if kind not in (CAT, HEART)]
    assert (kinds[:, others] == 0).all()
    colours = targets(architecture).colours[0]
    assert colours[:, RED].tolist() == [1, -1, 1]
    assert colours.abs().sum() == 3


def test_a_sliver_is_not_there(architecture: Architecture) -> None:
    boxes = torch.tensor([[[0.0, 0, 28, 28], [55.5, 0, 74, 28], [0, 0, 0, 0]]])
    assert targets(architecture, boxes=boxes).kinds[0, :, HEART].tolist() == [1, 0, 1]


def test_of_two_of_a_kind_the_one_that_is_there_counts(architecture: Architecture) -> None:
    kinds = targets(architecture, kinds=torch.tensor([[CAT, CAT, -1]])).kinds[0]
    assert kinds[:, CAT].tolist() == [1, 1, 1]


def test_patches_belong_to_the_item_over_their_centre(architecture: Architecture) -> None:
    made = targets(architecture)
    kinds = made.patch_kinds[0]
    cat, heart = patches(kinds, CAT), patches(kinds, HEART)
    # In the thumbnail 112 x 28 becomes 56 x 56: the cat is 14 wide and the heart lies from 21 to 37, both 56 high.
    assert cat == [[(row, 0) for row in range(4)], [(1, 0), (1, 1), (2, 0), (2, 1)], []]
    assert heart == [[(row, column) for row in range(4) for column in (1, 2)], [(1, 3), (2, 3)], [(1, 0), (2, 0)]]
    assert int((kinds == NUM_KINDS).sum()) == 3 * 16 - 4 - 4 - 8 - 4
    assert patches(made.patch_colours[0], RED) == heart
    assert int((made.patch_colours == UNKNOWN).sum()) == 3 * 16 - 12


def test_boards_under_an_object_are_kinds_of_their_own(architecture: Architecture) -> None:
    made = targets(architecture, kinds=torch.tensor([[LABEL, PRICE, -1]]), colours=torch.full((1, 3), -1))
    assert made.kinds[0, 1, LABEL] == 1
    assert made.kinds[0, 2, PRICE] == 1
    assert (made.patch_colours == UNKNOWN).all()


def test_a_character_lies_in_one_slot_of_one_patch_of_a_crop(architecture: Architecture) -> None:
    made = targets(architecture)
    slots = made.patch_characters[0]  # [3, P, SLOTS]
    assert slots.shape == (3, 16, SLOTS)
    # On the canvas A is at (7.5, 28.5): third row, first column, right half. B is 17 into the second crop, at 27.
    a, b = CHARACTERS.index("A"), CHARACTERS.index("B")
    assert (slots == a).nonzero().tolist() == [[1, 2 * 4 + 0, 1]]
    assert (slots == b).nonzero().tolist() == [[2, 1 * 4 + 1, 0]]
    assert int((slots[1:] == NONE).sum()) == 2 * 16 * SLOTS - 2
    held = made.characters[0]
    assert held[1].nonzero().tolist() == [[a]]
    assert held[2].nonzero().tolist() == [[b]]


def test_print_in_the_thumbnail_is_unknown(architecture: Architecture) -> None:
    made = targets(architecture)
    assert (made.patch_characters[:, 0] == UNKNOWN).all()
    assert (made.characters[:, 0] == -1).all()


def test_a_thumbnail_alone_has_the_thumbnails_targets(architecture: Architecture) -> None:
    whole = targets(architecture)
    alone = targets(architecture, rows=0, columns=0, tiles=torch.zeros(1, 1, 3, 56, 56, dtype=torch.uint8))
    for field in dataclasses.fields(whole):
        both = getattr(whole, field.name), getattr(alone, field.name)
        assert torch.equal(both[0][:, :1], both[1]), field.name


def test_losses_leave_out_what_is_unknown(architecture: Architecture) -> None:
    """Nothing coloured and nothing printed: those losses are 0, and every loss is a number."""
    torch.manual_seed(0)
    heads = TowerHeads(architecture.vision_width, architecture.side)
    states = tuple(torch.randn(1, 17, architecture.vision_width) for _ in range(architecture.vision_layers + 1))
    alone = torch.zeros(1, 1, 3, 56, 56, dtype=torch.uint8)
    made = targets(architecture, rows=0, columns=0, tiles=alone, colours=torch.full((1, 3), -1))
    losses = heads(states, made)
    assert losses.patch_colours == losses.characters == losses.early_characters == 0
    assert losses.total().isfinite()
    assert min(losses.tile, losses.patch_kinds, losses.places) > 0


def test_heads_that_know_all_have_no_loss(architecture: Architecture) -> None:
    """Heads whose bias is the answer, on a tile without anything in it."""
    heads = TowerHeads(architecture.vision_width, architecture.side)
    empty = torch.full((1, 3), -1)
    made = targets(architecture, kinds=empty, colours=empty, characters=empty)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.zero_()
        heads.tile[1].bias.fill_(-40)
        heads.patch_kinds.bias[NUM_KINDS] = 40
        for head in (heads.characters, heads.early_characters[1]):
            head.bias[NONE], head.bias[NONE + 1 + NONE] = 40, 40
    states = tuple(torch.randn(3, 17, architecture.vision_width) for _ in range(architecture.vision_layers + 1))
    losses = heads(states, made)
    assert losses.tile < 1e-6
    assert losses.patch_kinds < 1e-6
    assert losses.characters < 1e-6
    assert losses.early_characters < 1e-6
    torch.testing.assert_close(losses.places, torch.tensor(architecture.side).float().log())


def test_places_are_learnt_where_something_is_shown(architecture: Architecture) -> None:
    """Heads that know places on the backdrop alone have a loss, however small the rest of the tile is."""
    made = targets(architecture)
    shown = made.patch_kinds.flatten(0, 1) != NUM_KINDS  # [T, P]
    assert 0 < shown.sum() < shown.numel() / 2
    heads = TowerHeads(architecture.vision_width, architecture.side)
    side = architecture.side
    number = torch.arange(side * side)
    known = torch.cat([torch.eye(side)[number // side], torch.eye(side)[number % side]], 1) * 40  # [P, 2 * side]
    logits = torch.where(shown[..., None], torch.zeros(()), known)  # [T, P, 2 * side]
    heads.places = ReadOut(logits)  # type: ignore[assignment]
    states = tuple(torch.randn(3, 17, architecture.vision_width) for _ in range(architecture.vision_layers + 1))
    torch.testing.assert_close(heads(states, made).places, torch.tensor(side).float().log())


class ReadOut(torch.nn.Module):
    """Says the same of any features."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        assert features.shape[:-1] == self._logits.shape[:-1]
        return self._logits


def test_a_drawn_batch_teaches_what_it_shows(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
    batches = Batches(architecture, tokenizer, BatchConfig(tiles=28, thumbnails_only=0.2, crops_only=0.2), 20)
    for number in range(20):
        drawn, scenes = batches[number], batches.scenes(number)
        made = tower_targets(drawn, architecture)
        assert made.kinds.shape[:2] == drawn.tiles.shape[:2]
        for image, scene in enumerate(scenes):
            in_thumbnail = {KINDS[kind] for kind in (made.kinds[image, 0] == 1).nonzero()[:, 0] if kind < len(KINDS)}
            assert in_thumbnail == {item.kind for item in scene.items}
            if drawn.rows:
                held = (made.characters[image, 1:] == 1).any(0).nonzero()[:, 0]
                printed = {character for item in scene.items for each in item.prints for character in each.text}
                assert {CHARACTERS[number] for number in held} == printed
