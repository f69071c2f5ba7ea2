"""The seam between visionsplit and a family of models: what a family says of itself and of one of its checkpoints.

A *cell* is one vision token as the language model counts them. A *tile* is one image that the vision tower sees: tile 0
is the thumbnail, the others are crops. A *run* is an unbroken row of an image's tokens in the prompt. The *connector*
maps the vision tower's features to the language model's embeddings.

This module and the families' own `family.py` need no PyTorch: the client imports them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visionsplit.errors import InvalidTokensError
from visionsplit.grid import TileGrid, UnpadRule
from visionsplit.options.layout import Layout
from visionsplit.wire.vision_tokens import Positions

if TYPE_CHECKING:  # they need PyTorch or the transformers library, which the client does not have
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from visionsplit.families.checkpoint import Checkpoint
    from visionsplit.families.encoder_half import EncoderHalf
    from visionsplit.families.language_half import LanguageHalf
    from visionsplit.families.prompt_images import PromptImages
    from visionsplit.families.tiler import Tiler

Order = NDArray[np.int64]  # [sequence]: rows of an image's kept tokens; `token_order.NEWLINE` at a newline


class Cutting(ABC):
    """How a checkpoint cuts images, from their size alone."""

    tile_pixels: int  # along one side of a tile
    patch_pixels: int  # along one side of a vision tower's patch
    side: int  # cells along one side of a tile
    counts_images: bool = False  # whether an image is cut differently when its prompt has further images

    @property
    @abstractmethod
    def grids(self) -> list[tuple[int, int]]:
        """The possible arrangements of crops, as (rows, columns); (0, 0) stands for a thumbnail without crops."""

    @abstractmethod
    def grid_of(self, height: int, width: int, *, rule: UnpadRule, alone: bool = True) -> TileGrid:
        """How an image is cut.

        Args:
            height: in pixels.
            width: in pixels.
            rule: where the padding of an image ends, for families that pad.
            alone: whether it is the only image of its prompt.
        """

    @property
    def max_tiles(self) -> int:
        """The largest number of tiles that an image of any size is cut into."""
        return 1 + max(rows * columns for rows, columns in self.grids)

    def most_tiles(self, width: int, height: int, *, alone: bool = True) -> int:
        """The largest number of tiles for an image of this size, upright or rotated by 90 degrees."""
        sizes = ((height, width), (width, height))
        return max(self.grid_of(*size, rule=UnpadRule.HUGGING_FACE, alone=alone).num_tiles for size in sizes)

    def alone(self, num_images: int) -> bool:
        """Whether the images of a prompt are cut as if each was the only one."""
        return num_images == 1 or not self.counts_images

    def check(self, grid: TileGrid) -> None:
        """Refuse a received grid that does not follow from the image's size.

        Raises:
            InvalidTokensError: says what does not fit.
        """
        if grid.side != self.side:
            raise InvalidTokensError(f"side is {grid.side} cells; {self.side} is needed")
        if (grid.rows, grid.columns) not in self.grids:
            raise InvalidTokensError(f"the checkpoint has no grid of {grid.rows} x {grid.columns} crops")
        if grid not in self._possible(grid):
            bounds = f", row bounds {grid.row_bounds} and column bounds {grid.column_bounds}" if grid.row_bounds else ""
            raise InvalidTokensError(
                f"{grid.rows} x {grid.columns} crops with the valid region {grid.valid}{bounds} do not follow from "
                f"{grid.image_height} x {grid.image_width} pixels"
            )

    def _possible(self, grid: TileGrid) -> list[TileGrid]:
        """The grids that an image of the same size may have."""
        size = (grid.image_height, grid.image_width)
        return [self.grid_of(*size, rule=rule, alone=alone) for rule in UnpadRule for alone in (True, False)]


class Settings(ABC):
    """A checkpoint's config.json as its family reads it."""

    config: "PretrainedConfig"
    feature_size: int  # width of a token on the wire, for an image whose grid says nothing else
    connector_in_encoder: bool = False  # whether the encoder runs the connector, for images of any size
    encoder_tensors: tuple[str, ...] = ("vision_tower.",)  # beginnings of the names of tensors that the encoder may use

    @property
    @abstractmethod
    def image_token_id(self) -> int:
        """The id of the vision token, which the whole model has in place of each cell."""

    @abstractmethod
    def image_processor(self, source: str, revision: str | None) -> Any:  # noqa: ANN401 - the library's processors have no common type
        """The checkpoint's image processor, always in its Pillow version, so that all machines cut images alike.

        Raises:
            CheckpointError: it does not fit the vision tower or the model.
            Exception: it is missing or damaged.
        """

    @abstractmethod
    def cutting(self, processor: Any) -> Cutting:  # noqa: ANN401 - as above
        """How images are cut, given the image processor."""

    @abstractmethod
    def fingerprint(self, processor: Any) -> Mapping[str, Any]:  # noqa: ANN401 - as above
        """The settings, besides weights, that decide an image's features."""

    def width(self, grid: TileGrid) -> int:
        """Width of an image's tokens on the wire."""
        return self.feature_size

    def connector_name(self, name: str) -> str:
        """The canonical name of a tensor of the connector's module."""
        return f"multi_modal_projector.{name}"

    def stored_name(self, name: str) -> str:
        """The canonical name of a tensor of a half's modules, in which the connector is `multi_modal_projector`."""
        part, _, rest = name.partition(".")
        return self.connector_name(rest) if part == "multi_modal_projector" else name

    @property
    def connector_facts(self) -> Mapping[str, Any]:
        """What of the connector's settings belongs into the fingerprint."""
        names = ("projector_hidden_act", "adapter_layer_norm_eps", "multimodal_projector_bias")
        used = {name: getattr(self.config, name) for name in names if hasattr(self.config, name)}
        return {**used, "connector": "encoder" if self.connector_in_encoder else "language"}

    def choose_connector_side(self, tower_size: int, text_size: int) -> None:
        """Decide by which half the connector is run, so that the tokens on the wire are as narrow as they can be.

        Sets `feature_size`, `connector_in_encoder` and `encoder_tensors`.

        Args:
            tower_size: width of a token before the connector.
            text_size: width behind it, the language model's.
        """
        self.connector_in_encoder = text_size < tower_size
        self.feature_size = min(text_size, tower_size)
        if self.connector_in_encoder:
            self.encoder_tensors = ("vision_tower.", "multi_modal_projector.")


class Family(ABC):
    """One family of models. Its methods load no weights unless they say so."""

    name: str  # on the wire and in stored tokens
    model_types: tuple[str, ...]  # `model_type` of config.json
    layouts: tuple[Layout, ...] = ("spatial",)
    # Whether the thumbnail's cells are divided among crops as in GlobalCom2's published code: equal whole numbers of
    # cells, the rest to the last row and column. Otherwise all regions are equal, and cells on borders count in part.
    whole_cell_regions: bool = False
    clip_tower: bool = False  # whether the vision tower is a CLIP model's, whose text tower can read prompts

    @abstractmethod
    def canonical_name(self, key: str) -> str:
        """The canonical name of a stored tensor: `vision_tower.*`, `multi_modal_projector.*`, `image_newline`,
        `language_model.model.*` or `language_model.lm_head.*`."""

    def num_newlines(self, grid: TileGrid, layout: Layout) -> int:
        """Newline embeddings of an image in the language model, which compression does not change."""
        return 0

    def num_runs(self, grid: TileGrid) -> int:
        """In how many runs an image's tokens stand in the prompt."""
        return 1

    @abstractmethod
    def runs(self, grid: TileGrid, positions: Positions, layout: Layout) -> list[Order]:
        """The order of an image's kept tokens and newlines in each of its runs, [sequence] each.

        Args:
            grid: how the image was cut.
            positions: [tokens, 3] tile, row and column of each kept token, tile after tile.
            layout: one of `layouts`.
        """

    @abstractmethod
    def settings(self, fields: Mapping[str, Any]) -> Settings:
        """Read and check config.json.

        Raises:
            CheckpointError: visionsplit cannot split such a model.
            Exception: the configuration is damaged.
        """

    @abstractmethod
    def tiler(self, checkpoint: "Checkpoint") -> "Tiler":
        """What cuts images."""

    @abstractmethod
    def encoder_half(self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device") -> "EncoderHalf":
        """Load the vision tower, and the connector where the encoder runs it."""

    @abstractmethod
    def language_half(
        self, checkpoint: "Checkpoint", *, dtype: "torch.dtype", device: "torch.device"
    ) -> "LanguageHalf":
        """Load what the LLM service needs beside the language model: its part of the connector, and newlines."""

    @abstractmethod
    def prompt_images(self, checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> "PromptImages":
        """What stands for images in a prompt."""
