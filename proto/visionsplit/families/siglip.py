"""SigLIP's vision tower up to the layer that puts the features out; there is no [CLS]."""

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import CosineTower
from visionsplit.model.stored_model import CheckpointError


class SiglipTower(CosineTower):
    """The tower without its last norm and without its pooling head. A subclass calls `load`."""

    def __init__(
        self, checkpoint: Checkpoint, *, block: int, num_layers: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Allocate the tower's modules; `num_layers` of its layers are run."""
        super().__init__(checkpoint, block=block, dtype=dtype, device=device)
        with torch.device("meta"):
            self.embeddings = SiglipVisionEmbeddings(self.vision)
            self.layers = nn.ModuleList(SiglipEncoderLayer(self.vision) for _ in range(num_layers))

    def load(self, checkpoint: Checkpoint, levels: torch.Tensor) -> None:
        """Give all modules memory, and read their weights.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        self.place()
        # This buffer is not a weight, so no checkpoint contains it; allocating without initialising left it undefined.
        self.embeddings.position_ids = torch.arange(self.embeddings.num_positions, device=self.device)[None]  # [1, p]
        self.read_weights(checkpoint, levels)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        state: torch.Tensor = self.embeddings(pixels)  # [B, p * p, D]
        for layer in self.layers:
            state = layer(state, None)
        return state


def siglip_layers(config: PretrainedConfig) -> int:
    """How many layers of a whole model's SigLIP tower are needed for its features.

    Raises:
        CheckpointError: the tower is another one, or the features are not those of one layer with all patches.
    """
    vision, layer = config.vision_config, config.vision_feature_layer
    if vision.model_type != "siglip_vision_model":
        raise CheckpointError(f"the vision tower is {vision.model_type!r}; 'siglip_vision_model' is needed")
    if config.vision_feature_select_strategy != "full":
        raise CheckpointError(
            f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}; 'full' is needed, since "
            "SigLIP has no [CLS]"
        )
    layers = [layer] if isinstance(layer, int) else list(layer)
    count = int(vision.num_hidden_layers)
    if len(layers) != 1 or not -count - 1 <= layers[0] <= count:
        raise CheckpointError(f"vision_feature_layer is {layer}; one of the vision tower's {count} layers is needed")
    return int(layers[0] % (count + 1))
