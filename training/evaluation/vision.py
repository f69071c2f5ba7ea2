"""The encoder's half and the projector in this process: an image is encoded once, then compressed in every way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.checkpoint import Checkpoint
from visionsplit.grid import Layout, TileGrid, UnpadRule

from encoder_service.compression import CompressionSpec, TowerOutput, compose, select
from encoder_service.vision_tower import VisionTower
from llm_service.layout import sequence_order
from llm_service.projector import Projector
from training.evaluation.conditions import Condition
from training.evaluation.grouping import grouped
from training.evaluation.pictures import Picture

_RULE = {Layout.SPATIAL: UnpadRule.HUGGING_FACE, Layout.REFERENCE: UnpadRule.REFERENCE}


@dataclass(frozen=True)
class EncodedPicture:
    """One image's T tiles of P cells, all of them, ready for any compression."""

    picture: Picture
    table: torch.Tensor  # [T * P + 1, Dl] projected tokens, tile after tile in raster order, and last the newline
    scores: torch.Tensor | None  # [T, P] float32, CPU; None where no condition needs them


class VisionHalf:
    """A checkpoint's vision tower and projector."""

    def __init__(
        self, checkpoint: Checkpoint, conditions: Sequence[Condition], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a weight is missing or has another shape.
            InvalidCompressionError: a condition names something that does not exist.
        """
        needs = [compose(condition.spec).needs for condition in conditions if condition.spec is not None]
        self._wanted = frozenset[TowerOutput]().union(*needs)
        self._tower = VisionTower.load(checkpoint, dtype=dtype, device=device)
        self._projector = Projector(checkpoint, device=device, dtype=dtype)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Picture], *, max_tiles: int) -> Iterator[EncodedPicture]:
        """Encode images together, up to `max_tiles` tiles in a pass, but whole images."""
        for batch in grouped(pictures, lambda picture: picture.grid.num_tiles, max_tiles):
            yield from self._encode(batch)

    def _encode(self, pictures: Sequence[Picture]) -> list[EncodedPicture]:
        pixels = torch.from_numpy(np.concatenate([picture.pixels for picture in pictures]))  # [B, 3, H, W]
        encoded = self._tower(pixels.to(self._tower.device), self._wanted)
        newline = self._projector.image_newline
        projected = self._projector.multi_modal_projector(encoded.features.to(newline.dtype))  # [B, P, Dl]
        logits = encoded.outputs.get(TowerOutput.CLS_LOGITS)
        scores = None if logits is None else logits.cpu()  # [B, P]: choosing is many small steps
        results, first = [], 0
        for picture in pictures:
            stop = first + picture.grid.num_tiles
            table = torch.cat([projected[first:stop].flatten(0, 1), newline[None]])  # [T * P + 1, Dl]
            results.append(EncodedPicture(picture, table, None if scores is None else scores[first:stop]))
            first = stop
        return results


def token_order(encoded: EncodedPicture, condition: Condition) -> torch.Tensor:
    """The rows of the image's table that enter the language model, in order, [sequence] int64.

    Raises:
        InvalidCompressionError: the image would keep no token.
    """
    grid = encoded.picture.grid
    newline = len(encoded.table) - 1
    if condition.spec is None:
        return torch.tensor([*range(grid.cells_per_tile), newline])
    grid = encoded.picture.grid_by(_RULE[condition.spec.layout])
    kept = _kept(encoded, grid, condition.spec)  # [K, 3]
    rows = kept[:, 0] * grid.cells_per_tile + kept[:, 1] * grid.side + kept[:, 2]  # [K]
    order = sequence_order(grid, kept.astype(np.int32), condition.spec.layout)  # [sequence]
    return torch.from_numpy(np.append(rows, newline)[order])  # the order's -1 is the newline


def _kept(encoded: EncodedPicture, grid: TileGrid, spec: CompressionSpec) -> NDArray[np.int64]:
    """Tile, row and column of the kept tokens, [K, 3]."""
    scores = encoded.scores
    if scores is None:
        scores = torch.zeros(grid.num_tiles, grid.cells_per_tile)  # of no consequence: no condition asked for any
    positions: NDArray[np.int64] = torch.cat(select(scores, grid, spec).positions).numpy()
    return positions
