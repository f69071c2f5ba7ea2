"""LLaVA-OneVision's vision half: SigLIP, the connector, and pooling of large canvases."""

from typing import cast

import torch
from torch.nn import functional
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionMultiModalProjector

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_onevision.settings import LlavaOnevisionSettings, is_pooled
from visionsplit.families.sample_levels import levels_of
from visionsplit.families.siglip import SiglipTower
from visionsplit.families.token_order import all_cells, on_canvas
from visionsplit.families.tower_outputs import TileFeatures
from visionsplit.grid import Region, TileGrid, UnpadRule


class LlavaOnevisionEncoder(SiglipTower):
    """The tower and the connector.

    Pooling is bilinear over the whole canvas, behind the connector. So a pooled image's tokens can be chosen only when
    all its tiles are encoded, and they are as wide as the language model's embeddings.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        settings = checkpoint.settings
        assert isinstance(settings, LlavaOnevisionSettings)
        super().__init__(checkpoint, block=1, num_layers=settings.num_layers, dtype=dtype, device=device)
        self._connects_all = settings.connector_in_encoder
        with torch.device("meta"):
            self.connector = LlavaOnevisionMultiModalProjector(checkpoint.config)
        processor = checkpoint.image_processor()
        self.load(checkpoint, levels_of(processor, image_grid_pinpoints=[[256, 256]]))

    def needs_whole_image(self, grid: TileGrid) -> bool:
        return is_pooled(grid)

    def whole(self, grid: TileGrid, encoded: TileFeatures) -> TileFeatures:
        features = self._connected(encoded.features)  # [T, P, Dl]
        region = _unpadded(grid)
        outputs = {name: _pooled(grid, region, values[..., None])[..., 0] for name, values in encoded.outputs.items()}
        return TileFeatures(_pooled(grid, region, features), outputs)

    def connect(self, grid: TileGrid, features: torch.Tensor) -> torch.Tensor:
        return self._connected(features) if self._connects_all and not is_pooled(grid) else features

    def _connected(self, features: torch.Tensor) -> torch.Tensor:
        assert self.connector is not None, "made with the tower"
        return cast(torch.Tensor, self.connector(features))


def _unpadded(grid: TileGrid) -> Region:
    """The part of the canvas that shows image, in cells before pooling."""
    padded = TileGrid.padded(
        *(grid.image_height, grid.image_width),
        rows=grid.rows,
        columns=grid.columns,
        side=grid.side,
        rule=UnpadRule.HUGGING_FACE,
    )
    return padded.valid


def _pooled(grid: TileGrid, region: Region, values: torch.Tensor) -> torch.Tensor:
    """The cells of all tiles with the crops' pooled, [T, P, n]; a crop's cells are the first of its rows.

    Args:
        grid: of the image; its valid region is the pooled canvas.
        region: the part of the canvas before pooling that shows image.
        values: [T, P, n].
    """
    side, width = grid.side, values.shape[-1]
    crops = values[1:].reshape(grid.rows, grid.columns, side, side, width)
    canvas = crops.permute(4, 0, 2, 1, 3).reshape(width, grid.rows * side, grid.columns * side)
    shown = canvas[:, region.top : region.bottom, region.left : region.right]  # [n, height, width]
    size = (grid.valid.height, grid.valid.width)
    pooled = functional.interpolate(shown[None], size, mode="bilinear")[0].flatten(1).t()  # [cells, n]
    cells = all_cells(grid)
    tile, row, column = torch.from_numpy(cells[cells[:, 0] > 0]).to(values.device).long().unbind(1)
    in_canvas = on_canvas(grid, *cells[cells[:, 0] > 0].T)
    source = torch.from_numpy(in_canvas[0] * grid.valid.width + in_canvas[1]).to(values.device)
    result = torch.zeros_like(values)
    result[0] = values[0]
    result.view(-1, width)[(tile * side + row) * side + column] = pooled[source]
    return result
