"""The vision tower's losses: heads that read tiles and patches, and are dropped after training.

A loss on characters as early as the second layer is decisive: without it a tower this small stays blind to print.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from training.data.batches import NUM_KINDS
from training.learning.targets import SLOTS, UNKNOWN, TowerTargets
from training.scenes.vocabulary import CHARACTERS, COLOURS

EARLY = 2  # index of the hidden state that the early character head reads


@dataclass(frozen=True)
class TowerLosses:
    """The losses, all scalars."""

    tile: torch.Tensor  # [CLS] about the content of the tile
    patch_kinds: torch.Tensor
    patch_colours: torch.Tensor
    early_characters: torch.Tensor
    characters: torch.Tensor
    places: torch.Tensor  # position of a patch in its tile

    def total(self) -> torch.Tensor:
        return self.tile + self.patch_kinds + self.patch_colours + self.early_characters + self.characters + self.places


class TowerHeads(nn.Module):
    """Linear heads on the tower's hidden states."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        presence = nn.Linear(width, NUM_KINDS + len(COLOURS) + len(CHARACTERS))
        self.tile = nn.Sequential(nn.LayerNorm(width), presence)
        self.patch_norm = nn.LayerNorm(width)
        self.patch_kinds = nn.Linear(width, NUM_KINDS + 1)
        self.patch_colours = nn.Linear(width, len(COLOURS))
        self.characters = nn.Linear(width, SLOTS * (len(CHARACTERS) + 1))
        self.early_characters = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, SLOTS * (len(CHARACTERS) + 1)))
        self.places = nn.Linear(width, 2 * side)
        nn.init.constant_(presence.bias, -3.0)  # since almost nothing is in a given tile

    def forward(self, states: tuple[torch.Tensor, ...], targets: TowerTargets) -> TowerLosses:
        """Losses from all hidden states, each [B * T, 1 + P, D]."""
        wanted = torch.cat([targets.kinds, targets.colours, targets.characters], 2).flatten(0, 1)  # [B * T, classes]
        features = self.patch_norm(states[-2][:, 1:])  # [B * T, P, D]
        slots = targets.patch_characters.flatten(0, 1)  # [B * T, P, SLOTS]
        return TowerLosses(
            tile=_presence_loss(self.tile(states[-1][:, 0]), wanted),
            patch_kinds=_balanced_loss(self.patch_kinds(features), targets.patch_kinds.flatten(0, 1), NUM_KINDS),
            patch_colours=_known_loss(self.patch_colours(features), targets.patch_colours),
            early_characters=_character_loss(self.early_characters(states[EARLY][:, 1:]), slots),
            characters=_character_loss(self.characters(features), slots),
            places=_place_loss(self.places(features), targets.patch_kinds.flatten(0, 1)),
        )


def _presence_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy, summed over the known classes, mean over tiles."""
    losses = functional.binary_cross_entropy_with_logits(logits.float(), wanted.clamp(min=0), reduction="none")
    return losses.masked_fill(wanted < 0, 0).sum(1).mean() / 4


def _known_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over the known targets; 0 if there are none, as in a batch without a coloured item."""
    flat = wanted.flatten()
    total = functional.cross_entropy(logits.flatten(0, -2).float(), flat, ignore_index=UNKNOWN, reduction="sum")
    return total / (flat != UNKNOWN).sum().clamp(min=1)


def _balanced_loss(logits: torch.Tensor, wanted: torch.Tensor, background: int) -> torch.Tensor:
    """Cross-entropy in which the background counts as much as everything else together."""
    losses = functional.cross_entropy(
        logits.flatten(0, -2).float(), wanted.flatten(), ignore_index=UNKNOWN, reduction="none"
    )
    known, empty = wanted.flatten() != UNKNOWN, wanted.flatten() == background
    return _balanced_mean(losses, known & ~empty, empty)


def _place_loss(logits: torch.Tensor, patch_kinds: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each patch's row and column, from logits [B * T, P, 2 * side] and the patches' content.

    Balanced, since patches of the backdrop have nothing else to tell: without, they alone learn where they lie, and
    those that show something, which is all that compression leaves, do not.
    """
    tiles, patches, classes = logits.shape
    side = classes // 2
    number = torch.arange(patches, device=logits.device)
    wanted = torch.stack([number // side, number % side], 1).expand(tiles, -1, -1)  # [B * T, P, 2]
    losses = functional.cross_entropy(logits.reshape(-1, side).float(), wanted.reshape(-1), reduction="none")
    empty = patch_kinds == NUM_KINDS
    return _balanced_mean(losses.view(tiles, patches, 2).mean(2), ~empty, empty)


def _balanced_mean(losses: torch.Tensor, shown: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """The mean over patches with items plus the mean over empty ones; 0 for one without any."""
    return (losses * shown).sum() / shown.sum().clamp(min=1) + (losses * empty).sum() / empty.sum().clamp(min=1)


def _character_loss(logits: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    return _balanced_loss(torch.unflatten(logits, -1, (SLOTS, len(CHARACTERS) + 1)), slots, len(CHARACTERS))
