"""Aya Vision's vision half: SigLIP, and the connector where that makes tokens narrower."""

import torch

from visionsplit.families.aya_vision.language import Connector
from visionsplit.families.aya_vision.settings import AyaVisionSettings
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.siglip import SiglipTower
from visionsplit.families.tiled_canvas import processor_levels


class AyaVisionEncoder(SiglipTower):
    """The tower and the connector."""

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        """Load the weights.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        settings = checkpoint.settings
        assert isinstance(settings, AyaVisionSettings)
        super().__init__(checkpoint, block=settings.block, num_layers=settings.num_layers, dtype=dtype, device=device)
        if settings.connector_in_encoder:
            with torch.device("meta"):
                self.connector = Connector(checkpoint.config)
        self.load(checkpoint, processor_levels(checkpoint.image_processor()))
