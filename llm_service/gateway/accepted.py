"""What the service accepts in a request: properties of the checkpoint, and limits."""

from dataclasses import dataclass

from visionsplit.model.checkpoint import Checkpoint, feature_layers

from llm_service.config import Limits
from llm_service.job import ReplicaInfo


@dataclass(frozen=True)
class Accepted:
    """The checkpoint's properties and the configured limits."""

    feature_size: int
    encoder_fingerprint: str
    side: int
    crop_grids: frozenset[tuple[int, int]]  # rows, columns
    context_length: int  # tokens of prompt and answer together that a replica can hold
    max_places: int  # positions of the language model's position encoding; a replica may hold fewer tokens
    model_type: str  # of the language model, by the transformers library's name
    num_layers: int  # of the language model
    limits: Limits
    default_repetition_penalty: float
    engine: str  # the replicas' engine
    takes_layers_apart: bool  # whether replicas can prune between layers, and keep tokens at their original positions

    @classmethod
    def by_checkpoint(
        cls, checkpoint: Checkpoint, limits: Limits, replica: ReplicaInfo, *, repetition_penalty: float
    ) -> "Accepted":
        """Read the checkpoint; hashes the vision tower's weights."""
        config = checkpoint.config
        tile = config.vision_config.image_size
        return cls(
            feature_size=config.vision_config.hidden_size * len(feature_layers(config)),
            encoder_fingerprint=checkpoint.encoder_fingerprint(),
            side=tile // config.vision_config.patch_size,
            crop_grids=frozenset((height // tile, width // tile) for height, width in config.image_grid_pinpoints),
            context_length=replica.context_length,
            max_places=config.text_config.max_position_embeddings,
            model_type=config.text_config.model_type,
            num_layers=config.text_config.num_hidden_layers,
            limits=limits,
            default_repetition_penalty=repetition_penalty,
            engine=replica.engine,
            takes_layers_apart=replica.takes_layers_apart,
        )
