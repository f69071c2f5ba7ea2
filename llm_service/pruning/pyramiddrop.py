"""PyramidDrop (arXiv 2410.17247): fewer vision tokens after each quarter of the depth."""

from dataclasses import dataclass

import torch
from visionsplit.errors import InvalidPruningError
from visionsplit.options.parameters import Declared, Parameter

from llm_service.pruning.base import ComposedPruning, PromptLayout, PruningMethod, Settings, Stage, best, last_row
from llm_service.pruning.schedule import NUM_STAGES, depths_of, solve_shares, stage_layers

_NAME = "pyramiddrop"
_SHARES = tuple(f"share_{number}" for number in range(1, NUM_STAGES + 1))
_PUBLISHED_SUM = 1.875  # of the published shares over the four quarters of the depth: four times their mean
_DEPTHS = tuple(f"depth_{number}" for number in range(1, NUM_STAGES + 1))


@dataclass(frozen=True)
class PyramidDrop(ComposedPruning):
    """After each stage int(n * share) of the prompt's n vision tokens, newlines included, remain.

    The score is computed with the next layer's input norm, queries, keys and rotation: the post-softmax row of the last
    prompt token over the whole sequence, mean over heads. The kept tokens stay in order and are renumbered from 0, so
    in each layer a generated token's position is lower by the number of tokens dropped before that layer. Original
    position ids therefore hold only up to the first stage; after it positions have no gaps.

    Published: after layers 8, 16 and 24 of 32, with shares 0.5, 0.25 and 0.125 (46.9% over the layers).

    With a retention_ratio R the mean over the layers of the planned shares is R. The only published schedule is the one
    for R = 0.469. Here the stages lie at d, 2d and 3d of the depth, d = min(1/4, R/1.875), unless the request sets
    them, and the shares are s, s^2 and s^3 with the s that gives R. At the published mean, 1.875/4, this equals the
    published schedule; at R = 0.1 of 32 layers the stages come after layers 2, 3 and 5.
    """

    method = _NAME
    num_layers: int
    stages: tuple[Stage, ...]
    shares: tuple[float, ...]  # by stage

    def raters(self, embeddings: torch.Tensor, prompt: PromptLayout) -> torch.Tensor:
        return last_row(embeddings.device)

    def reduce(
        self, stage: int, attention: torch.Tensor, hidden: torch.Tensor, prompt: PromptLayout, *, total: int
    ) -> tuple[torch.Tensor, PromptLayout]:
        kept = ~prompt.vision
        kept[prompt.vision] = best(attention[0, prompt.vision], int(total * self.shares[stage]))
        indices = kept.nonzero().flatten()  # [m]
        return hidden[indices], prompt.select(indices).renumbered()


def _build(settings: Settings) -> PyramidDrop:
    ratio, parameters = settings.retention_ratio, settings.parameters
    depths = depths_of(parameters)
    if ratio is None:
        after = stage_layers(depths, settings, method=_NAME)
        shares = [parameters[name] for name in _SHARES]
        if shares != sorted(shares, reverse=True):
            raise InvalidPruningError(f"the shares of method {_NAME!r} must descend: what is dropped stays dropped")
    else:
        if contradicting := settings.given.intersection(_SHARES):
            raise InvalidPruningError(
                f"retention_ratio decides the shares of method {_NAME!r}; leave out {min(contradicting)!r} or the ratio"
            )
        if settings.given.isdisjoint(_DEPTHS):
            spacing = min(1 / (NUM_STAGES + 1), ratio / _PUBLISHED_SUM)
            depths = [number * spacing for number in range(1, NUM_STAGES + 1)]
        after = stage_layers(depths, settings, method=_NAME)
        shares = solve_shares(_powers, after, ratio, settings, method=_NAME)
    stages = tuple(Stage(layer, layer, share) for layer, share in zip(after, shares, strict=True))
    return PyramidDrop(settings.num_layers, stages, tuple(shares))


def _powers(base: float) -> list[float]:
    return [base**number for number in range(1, NUM_STAGES + 1)]


def _parameters() -> Declared:
    depths = {name: Parameter(number / (NUM_STAGES + 1), 0, 1) for number, name in enumerate(_DEPTHS, 1)}
    shares = {name: Parameter(0.5**number, 0, 1, above_minimum=True) for number, name in enumerate(_SHARES, 1)}
    return {**depths, **shares}


PYRAMIDDROP = PruningMethod(
    _NAME,
    "Drops vision tokens at three depths (of 0 to 1) down to three shares, by the last prompt token's attention in the "
    "layer to come; retention_ratio is the mean over the layers (arXiv 2410.17247).",
    _parameters(),
    takes_quotas=False,
    build=_build,
)
