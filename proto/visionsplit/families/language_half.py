"""What the LLM service runs of a model beside its language model: from tokens on the wire to embeddings."""

from abc import ABC, abstractmethod

import torch
from torch import nn

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
    """The connector, or nothing where the encoder ran it; no newlines."""

    def __init__(
        self, checkpoint: Checkpoint, connector: nn.Module | None, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Read the connector's weights; it is on the "meta" device.

        Raises:
            CheckpointError: a weight is missing or has another shape.
        """
        super().__init__()
        self._device, self._dtype = device, dtype
        self.connector = connector
        if connector is not None:
            connector.to(dtype).to_empty(device=device)
            checkpoint.load_into(connector, checkpoint.settings.connector_name)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, features: TokenTensor, grid: TileGrid, order: Order) -> torch.Tensor:
        rows = rows_on(features, self._device, self._dtype)  # [tokens, width]
        embedded: torch.Tensor = rows if self.connector is None else self.connector(rows)  # [tokens, Dl]
        return embedded[torch.from_numpy(order).to(self._device)]


def rows_on(features: TokenTensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Tokens in wire format as a tensor [tokens, width] of a type, on a device."""
    return torch.from_numpy(features.to_float32()).to(device, dtype)
