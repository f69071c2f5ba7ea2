"""The encoder's half and the projector in this process: an image is encoded once and compressed in several ways."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.language import Projector
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.token_order import NEWLINE, original_offsets, tiles_of
from visionsplit.options.layout import UNPAD_RULES

from encoder_service.compression import TileFeatures, TowerOutput, compose, select
from training.evaluation.conditions import Condition
from training.evaluation.decoding import EmbeddedImage
from training.evaluation.grouping import grouped
from training.evaluation.tiled_images import TiledImage


@dataclass(frozen=True)
class EncodedTiledImage:
    """One image's T tiles of P cells, complete, ready for any compression."""

    tiled: TiledImage
    encoded: TileFeatures  # on the CPU, since choosing consists of many small steps


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
        self._family = checkpoint.family
        self._tower = VisionTower.load(checkpoint, dtype=dtype, device=device)
        self._projector = Projector(checkpoint, device=device, dtype=dtype)

    @torch.inference_mode()
    def encode(self, images: Sequence[TiledImage], *, max_tiles: int) -> Iterator[EncodedTiledImage]:
        """Encode images together, up to `max_tiles` tiles in a forward pass, without splitting an image."""
        for batch in grouped(images, lambda image: image.grid.num_tiles, max_tiles):
            yield from self._encode(batch)

    @torch.inference_mode()
    def embed(self, image: EncodedTiledImage, condition: Condition) -> EmbeddedImage:
        """The image as input of the language model: kept tokens and newlines, projected and in order.

        Raises:
            InvalidCompressionError: the image would keep no token.
        """
        if condition.spec is None:
            return EmbeddedImage.renumbered(self._project(image.encoded.features[0], [*range(_cells(image)), NEWLINE]))
        grid = image.tiled.grid_by(UNPAD_RULES[condition.spec.layout])
        kept = select(image.encoded, grid, condition.spec)
        positions = torch.cat(kept.positions).numpy().astype(np.int32)  # [K, 3]
        (order,) = self._family.runs(grid, positions, condition.spec.layout)  # [V]
        places, count = np.arange(len(order)), len(order)
        if condition.position_ids == "original":
            ((places, count),) = original_offsets(self._family, grid, positions, [order])
        return EmbeddedImage(
            self._project(kept.features, order.tolist()),
            torch.from_numpy(places),
            count,
            torch.from_numpy(tiles_of(positions, order)),
            None if kept.quotas is None else tuple(kept.quotas),
        )

    def _project(self, features: torch.Tensor, order: list[int]) -> torch.Tensor:
        """Kept features [K, Dv] and newlines in the given order, [V, Dl]."""
        newline, projector = self._projector.image_newline, self._projector.multi_modal_projector
        assert newline is not None, "LLaVA-NeXT has one"
        assert projector is not None, "the LLM service runs it"
        projected = projector(features.to(newline.device, newline.dtype))  # [K, Dl]
        return torch.cat([projected, newline[None]])[torch.tensor(order, device=newline.device)]

    def _encode(self, images: Sequence[TiledImage]) -> list[EncodedTiledImage]:
        pixels = torch.from_numpy(np.concatenate([image.pixels for image in images]))  # [B, 3, H, W]
        encoded = self._tower(pixels.to(self._tower.device), self._wanted)
        outputs = {name: output.cpu() for name, output in encoded.outputs.items()}
        encoded = TileFeatures(encoded.features.cpu(), outputs)  # B tiles
        results, first = [], 0
        for image in images:
            stop = first + image.grid.num_tiles
            results.append(EncodedTiledImage(image, encoded.tiles(first, stop)))
            first = stop
        return results


def _cells(image: EncodedTiledImage) -> int:
    return image.tiled.grid.cells_per_tile
