"""The vision tower's targets for each tile and patch, computed on the device from a batch's tables."""

from dataclasses import dataclass

import torch

from training.data.batches import NUM_KINDS, Batch
from training.model.checkpoint import Architecture
from training.scenes.vocabulary import CHARACTERS, COLOURS

SLOTS = 2  # characters side by side in one patch
UNKNOWN = -100  # a target without a loss
_VISIBLE, _HIDDEN = 0.5, 0.05  # share of an item inside a tile: present from the first, absent up to the second
_REACH = 3.0  # how many pixels an item's box may miss a patch's centre by


@dataclass(frozen=True)
class TowerTargets:
    """Targets for B images of T tiles (thumbnail first) with P patches each."""

    kinds: torch.Tensor  # [B, T, K] float: 1 present, 0 absent, negative unknown
    colours: torch.Tensor  # [B, T, C] float, likewise
    characters: torch.Tensor  # [B, T, A] float, likewise; unknown in the thumbnail, where print is a blur
    patch_kinds: torch.Tensor  # [B, T, P] int64; NUM_KINDS for the backdrop
    patch_colours: torch.Tensor  # [B, T, P] int64; UNKNOWN off coloured items
    patch_characters: torch.Tensor  # [B, T, P, SLOTS] int64; len(CHARACTERS) for none, UNKNOWN in the thumbnail


def tower_targets(batch: Batch, architecture: Architecture) -> TowerTargets:
    """Compute the targets of a batch."""
    tile = architecture.tile
    canvas_boxes = batch.boxes + torch.cat([batch.offset, batch.offset], 1)[:, None]  # [B, M, 4]
    scale = tile / batch.fitted  # [B, 2]
    thumbnail_boxes = batch.boxes * torch.cat([scale, scale], 1)[:, None]
    origins = _tile_origins(batch, tile)  # [T - 1, 2]
    crop_boxes = canvas_boxes[:, None] - torch.cat([origins, origins], 1)[None, :, None]  # [B, T - 1, M, 4]
    boxes = torch.cat([thumbnail_boxes[:, None], crop_boxes], 1)  # [B, T, M, 4], each in its tile's own pixels
    shares = _shares_inside(boxes, tile).masked_fill(batch.kinds[:, None] < 0, 0)  # [B, T, M]
    slots, there = _characters(batch, architecture, origins)
    owner = _owners(boxes, batch.kinds, architecture)  # [B, T, P]
    return TowerTargets(
        kinds=_presence(shares, batch.kinds, NUM_KINDS),
        colours=_presence(shares, batch.colours, len(COLOURS)),
        characters=there,
        patch_kinds=_look_up(batch.kinds, owner, NUM_KINDS),
        patch_colours=_look_up(batch.colours, owner, UNKNOWN).where(owner >= 0, UNKNOWN),
        patch_characters=slots,
    )


def _tile_origins(batch: Batch, tile: int) -> torch.Tensor:
    """Left and top edge of each crop on the canvas, [T - 1, 2]."""
    down, across = torch.meshgrid(torch.arange(batch.rows), torch.arange(batch.columns), indexing="ij")
    return (torch.stack([across, down], -1).reshape(-1, 2) * float(tile)).to(batch.boxes.device)


def _shares_inside(boxes: torch.Tensor, tile: int) -> torch.Tensor:
    """The share of each box [..., 4] inside the tile."""
    inside = boxes.clamp(0, tile)
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return (inside[..., 2] - inside[..., 0]) * (inside[..., 3] - inside[..., 1]) / area.clamp(min=1)


def _presence(shares: torch.Tensor, classes: torch.Tensor, count: int) -> torch.Tensor:
    """Convert shares [B, T, M] and classes [B, M] to 1, 0 or -1 (unknown) for each class, [B, T, count]."""
    most = shares.new_zeros(*shares.shape[:2], count + 1)
    index = torch.where(classes < 0, count, classes)[:, None].expand_as(shares)
    most = most.scatter_reduce(2, index, shares, "amax")[..., :count]
    return torch.where(most >= _VISIBLE, 1.0, torch.where(most > _HIDDEN, -1.0, 0.0))


def _owners(boxes: torch.Tensor, kinds: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    """The number of the item at each patch's centre, or -1: [B, T, P]."""
    centres = (torch.arange(architecture.side, device=boxes.device) + 0.5) * architecture.patch
    box = boxes[:, :, None]  # [B, T, 1, M, 4]
    across = centres[:, None]  # [side, 1]
    inside_x = (across > box[..., 0] - _REACH) & (across < box[..., 2] + _REACH)  # [B, T, side, M]
    inside_y = (across > box[..., 1] - _REACH) & (across < box[..., 3] + _REACH)
    inside = inside_y[:, :, :, None] & inside_x[:, :, None] & (kinds >= 0)[:, None, None, None]  # [B, T, side, side, M]
    found, owner = inside.max(-1)
    return torch.where(found, owner, -1).flatten(2)


def _look_up(table: torch.Tensor, owner: torch.Tensor, otherwise: int) -> torch.Tensor:
    """The entry [B, M] of each patch's owner [B, T, P]; `otherwise` without an owner."""
    values = table[:, None].expand(-1, owner.shape[1], -1).gather(2, owner.clamp(min=0))
    return torch.where((owner >= 0) & (values >= 0), values, otherwise)


def _characters(batch: Batch, architecture: Architecture, origins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The character in each slot of each patch [B, T, P, SLOTS], and the characters of each tile [B, T, A]."""
    images, side, tile, none = len(batch.tiles), architecture.side, architecture.tile, len(CHARACTERS)
    crops = len(origins)
    unknown_slots = torch.full((images, 1, side * side, SLOTS), UNKNOWN, device=batch.characters.device)
    unknown = torch.full((images, 1, none), -1.0, device=batch.characters.device)
    if not crops:
        return unknown_slots, unknown
    centres = batch.centres + batch.offset[:, None]  # [B, N, 2], on the canvas
    column = (centres[..., 0] / tile).long().clamp(0, batch.columns - 1)
    row = (centres[..., 1] / tile).long().clamp(0, batch.rows - 1)
    crop = row * batch.columns + column  # [B, N]
    inner = centres - origins[crop]  # [B, N, 2], within the crop
    slot = (inner[..., 0] / architecture.patch * SLOTS).long().clamp(0, side * SLOTS - 1)
    line = (inner[..., 1] / architecture.patch).long().clamp(0, side - 1)
    place = (crop * side + line) * side * SLOTS + slot  # [B, N]
    size = crops * side * side * SLOTS
    place = torch.where(batch.characters < 0, size, place)  # padding goes after the last index
    slots = torch.full((images, size + 1), none, device=place.device)
    slots = slots.scatter(1, place, batch.characters)[:, :size].reshape(images, crops, side * side, SLOTS)
    held = torch.zeros(images, crops * none + 1, device=place.device)
    held_place = torch.where(batch.characters < 0, crops * none, crop * none + batch.characters)
    held = held.scatter(1, held_place, 1.0)[:, : crops * none].reshape(images, crops, none)
    return torch.cat([unknown_slots, slots], 1), torch.cat([unknown, held], 1)
