"""The vision half of a model, as the encoder service runs it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.patch_blocks import block_means, join_blocks, negative_cosine
from visionsplit.families.sample_levels import SampleLevels
from visionsplit.families.tower_outputs import TileFeatures, TowerOutput
from visionsplit.grid import TileGrid


class EncoderHalf(nn.Module, ABC):
    """A vision tower, and the connector where the encoder runs it."""

    device: torch.device
    dtype: torch.dtype
    feature_size: int  # width of a token on the wire, for an image whose grid says nothing else
    outputs: frozenset[TowerOutput]  # what it can compute besides the features

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """The settings that decide its results' bits besides weights, type and device."""

    @abstractmethod
    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        """Encode tiles, each by itself.

        Args:
            tiles: [B, 3, H, W], 8-bit samples as the tiler cuts them, or floats that are normalised already.
            wanted: the outputs that compressions need besides the features; a subset of `outputs`.

        Returns:
            Features [B, P, Dv] and outputs [B, P, ...] of cells, P in each tile.
        """

    def needs_whole_image(self, grid: TileGrid) -> bool:
        """Whether `whole` has to see all tiles of an image before any of its tokens can be chosen."""
        return False

    def whole(self, grid: TileGrid, encoded: TileFeatures) -> TileFeatures:
        """The final features of all tiles of an image, for grids of which `needs_whole_image` is true."""
        return encoded

    def connect(self, grid: TileGrid, features: torch.Tensor) -> torch.Tensor:
        """What goes on the wire, [K, width], of kept cells' features [K, Dv], each row by itself."""
        return features


class PatchTower(EncoderHalf):
    """A vision tower whose cells are blocks of patches, or patches, and its connector where the encoder runs it.

    A subclass makes its modules on the "meta" device, calls `place`, and then `read_weights`.
    """

    def __init__(self, checkpoint: Checkpoint, *, block: int, dtype: torch.dtype, device: torch.device) -> None:
        """`block` is the number of patches along one side of a cell."""
        super().__init__()
        self.device, self.dtype = device, dtype
        self.block = block
        self.feature_size = checkpoint.settings.feature_size
        self.vision = sdpa_config(checkpoint.config.vision_config)
        self.connector: nn.Module | None = None
        with torch.device("meta"):
            self.levels = SampleLevels()

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"vision_config": self.vision.to_dict(), "block": self.block}

    @abstractmethod
    def encode(
        self, pixels: torch.Tensor, wanted: frozenset[TowerOutput]
    ) -> tuple[torch.Tensor, Mapping[TowerOutput, torch.Tensor]]:
        """The features and outputs of patches, [B, p * p, D] and [B, p * p, ...], of pixels [B, 3, H, W]."""

    @torch.inference_mode()
    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        pixels = self.levels(tiles) if tiles.dtype is torch.uint8 else tiles.to(self.dtype)
        patches, outputs = self.encode(pixels, wanted)
        features = join_blocks(patches, self.block) if self.block > 1 else patches  # [B, P, Dv]
        return TileFeatures(features, {name: block_means(values, self.block) for name, values in outputs.items()})

    def connect(self, grid: TileGrid, features: torch.Tensor) -> torch.Tensor:
        if self.connector is None:
            return features
        connected: torch.Tensor = self.connector(features)
        return connected

    def place(self) -> None:
        """Give the modules memory of the type, on the device, without initialising it."""
        self.to(self.dtype).to_empty(device=self.device)

    def read_weights(self, checkpoint: Checkpoint, levels: torch.Tensor, *, layers: str = "layers.") -> None:
        """Read the weights of the modules, and of no other part of the checkpoint.

        Args:
            checkpoint: to read from.
            levels: what the image processor makes of 8-bit samples.
            layers: the beginning of the names of the tower's layers.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """

        def stored(name: str) -> str:
            part, _, rest = name.partition(".")
            if part == "connector":
                return checkpoint.settings.connector_name(rest)
            return f"vision_tower.encoder.{name}" if name.startswith(layers) else f"vision_tower.{name}"

        checkpoint.load_into(self, stored)
        self.levels.fill(levels)
        self.eval().requires_grad_(False)


class CosineTower(PatchTower):
    """A vision tower without [CLS]: a patch is rated by how far its features are from the mean of the tile."""

    outputs = frozenset({TowerOutput.SALIENCE})

    @abstractmethod
    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """The patches' features, [B, p * p, D], of normalised pixels [B, 3, H, W]."""

    def encode(
        self, pixels: torch.Tensor, wanted: frozenset[TowerOutput]
    ) -> tuple[torch.Tensor, Mapping[TowerOutput, torch.Tensor]]:
        patches = self.patches(pixels)
        return patches, {output: negative_cosine(patches) for output in wanted}


def sdpa_config(config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a vision tower's configuration that computes attention with PyTorch's fused kernels."""
    own = type(config).from_dict(config.to_dict())
    own._attn_implementation = "sdpa"
    return own
