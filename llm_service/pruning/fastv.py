"""FastV (arXiv 2403.06764): one drop after the first few layers, by the attention of the prompt's last token."""

from dataclasses import dataclass

import torch
from visionsplit.errors import InvalidPruningError
from visionsplit.options.parameters import Parameter

from llm_service.pruning.base import (
    ComposedPruning,
    PromptLayout,
    PruningMethod,
    Settings,
    Stage,
    best,
    best_of_tiles,
    last_row,
)


@dataclass(frozen=True)
class FastV(ComposedPruning):
    """Layers 0 to K-1 see every token; layer K-1's attention decides which tokens layer K and later layers see.

    The score is that layer's post-softmax attention from the last token, mean over heads. The kept tokens stay in order
    and keep their positions: the positions of dropped tokens stay unused, and generated tokens continue the numbering
    of the whole prompt.

    The count is int(n * ratio) of the n vision tokens, newlines included, as in the port to lmms-eval. The authors'
    first code takes the count itself; the port to Hugging Face drops round(n * (1 - ratio)). The ratio says what is
    left after layer K, not the mean over the layers.

    With quotas (the number of tokens that GlobalCom2 would keep of each tile), each tile keeps its quota by the same
    score, all newlines stay, and the ratio has no effect.
    """

    method = "fastv"
    num_layers: int
    stages: tuple[Stage, ...]

    def raters(self, embeddings: torch.Tensor, prompt: PromptLayout) -> torch.Tensor:
        return last_row(embeddings.device)

    def reduce(
        self, stage: int, attention: torch.Tensor, hidden: torch.Tensor, prompt: PromptLayout, *, total: int
    ) -> tuple[torch.Tensor, PromptLayout]:
        score = attention[0, prompt.vision]  # [vision tokens]
        share = self.stages[stage].share
        if prompt.quotas is not None:
            chosen = best_of_tiles(score, prompt.tiles[prompt.vision], prompt.quotas)
        elif share is not None:
            chosen = best(score, int(total * share))
        else:
            raise InvalidPruningError("method 'fastv' was asked for quotas, and the images have none")
        kept = ~prompt.vision
        kept[prompt.vision] = chosen
        indices = kept.nonzero().flatten()  # [m]
        return hidden[indices], prompt.select(indices)


def _build(settings: Settings) -> FastV:
    ratio = settings.retention_ratio
    if ratio is None and not settings.quotas:
        raise InvalidPruningError("method 'fastv' needs a retention_ratio in (0, 1]")
    layer = int(settings.parameters["layer"])
    if layer >= settings.num_layers:
        raise InvalidPruningError(
            f"parameter 'layer' is {layer}; it must be below the model's {settings.num_layers} layers"
        )
    return FastV(settings.num_layers, (Stage(layer, layer - 1, None if settings.quotas else ratio),))


FASTV = PruningMethod(
    "fastv",
    "After `layer` layers keeps retention_ratio of the vision tokens, by the last prompt token's attention; takes "
    "quotas (arXiv 2403.06764).",
    {"layer": Parameter(2, 1, 1024, whole=True)},
    takes_quotas=True,
    build=_build,
)
