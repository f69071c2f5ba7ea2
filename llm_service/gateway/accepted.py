"""What the service accepts in a request: properties of the checkpoint, and limits."""

from dataclasses import dataclass

from visionsplit.families.base import Cutting, Family, Settings
from visionsplit.families.checkpoint import Checkpoint

from llm_service.config import Limits
from llm_service.job import ReplicaInfo


@dataclass(frozen=True)
class Accepted:
    """The checkpoint's properties and the configured limits."""

    family: Family
    settings: Settings
    cutting: Cutting
    encoder_fingerprint: str
    context_length: int  # tokens of prompt and answer together that a replica can hold
    max_places: int  # positions of the language model's position encoding; a replica may hold fewer tokens
    model_type: str  # of the language model, by the transformers library's name
    num_layers: int  # of the language model
    limits: Limits
    default_repetition_penalty: float
    engine: str  # the replicas' engine
    takes_layers_apart: bool  # whether replicas can prune between layers, and keep tokens at their original positions

    @property
    def feature_size(self) -> int:
        """Width of a token on the wire, for an image whose grid says nothing else."""
        return self.settings.feature_size

    @classmethod
    def by_checkpoint(
        cls, checkpoint: Checkpoint, limits: Limits, replica: ReplicaInfo, *, repetition_penalty: float
    ) -> "Accepted":
        """Read the checkpoint; hashes the vision half's weights."""
        config = checkpoint.config
        return cls(
            family=checkpoint.family,
            settings=checkpoint.settings,
            cutting=checkpoint.cutting(),
            encoder_fingerprint=checkpoint.encoder_fingerprint(),
            context_length=replica.context_length,
            max_places=config.text_config.max_position_embeddings,
            model_type=config.text_config.model_type,
            num_layers=config.text_config.num_hidden_layers,
            limits=limits,
            default_repetition_penalty=repetition_penalty,
            engine=replica.engine,
            takes_layers_apart=replica.takes_layers_apart,
        )
