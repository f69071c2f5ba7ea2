"""What the LLM service runs of a model beside its language model: from tokens on the wire to embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from transformers import PretrainedConfig

from visionsplit.families.base import Order
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor


class LanguageHalf(nn.Module, ABC):
    """The connector where the LLM service runs it, and the embeddings that stand between an image's tokens."""

    @abstractmethod
    def forward(self, features: TokenTensor, grid: TileGrid, order: Order) -> torch.Tensor:
        """Embed one image's kept tokens and put tokens and newlines in order.

        Args:
            features: [tokens, width] in wire format.
            grid: how the image was cut.
            order: [sequence] indices into the tokens, `NEWLINE` for a newline.

        Returns:
            [sequence, Dl] in the model's type, on its device.
        """


class ConnectorHalf(LanguageHalf):
    """The connector where the encoder does not run it, and the newline's embedding where there is one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        make_connector: Callable[[PretrainedConfig], nn.Module],
        *,
        newline: bool = False,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Read the weights.

        Args:
            checkpoint: to read from.
            make_connector: makes the connector's module.
            newline: whether the checkpoint has an embedding of newlines.
            device: for the weights.
            dtype: of the weights.

        Raises:
            CheckpointError: a weight is missing or has another shape.
        """
        super().__init__()
        self._device, self._dtype = device, dtype
        self.multi_modal_projector: nn.Module | None = None
        self.image_newline: nn.Parameter | None = None
        with torch.device("meta"):
            if not checkpoint.settings.connector_in_encoder:
                self.multi_modal_projector = make_connector(checkpoint.config)
            if newline:
                self.image_newline = nn.Parameter(torch.empty(checkpoint.config.text_config.hidden_size))
        self.to(dtype).to_empty(device=device)
        checkpoint.load_into(self, checkpoint.settings.stored_name)
        self.requires_grad_(False).eval()

    def connects(self, grid: TileGrid) -> bool:
        """Whether an image's tokens have not been through the connector."""
        return self.multi_modal_projector is not None

    @torch.no_grad()
    def forward(self, features: TokenTensor, grid: TileGrid, order: Order) -> torch.Tensor:
        # [tokens, width]
        rows = torch.from_numpy(features.to_float32()).to(self._device, self._dtype)
        if self.connects(grid):
            assert self.multi_modal_projector is not None, "`connects` says so"
            rows = self.multi_modal_projector(rows)  # [tokens, Dl]
        if self.image_newline is not None:
            rows = torch.cat([rows, self.image_newline[None]])  # [tokens + 1, Dl]: index -1 is the newline
        return rows[torch.from_numpy(order).to(self._device)]
