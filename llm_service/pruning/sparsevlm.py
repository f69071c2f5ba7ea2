"""SparseVLM (arXiv 2410.04417): drops at three layers, by the attention of the prompt's words about the image."""

from dataclasses import dataclass, replace

import torch
from visionsplit.errors import InvalidPruningError
from visionsplit.options.parameters import Declared, Parameter

from llm_service.pruning.base import (
    NO_TILE,
    ComposedPruning,
    PromptLayout,
    PruningMethod,
    Settings,
    Stage,
    best,
    best_of_tiles,
    last_row,
)
from llm_service.pruning.recycling import recycle
from llm_service.pruning.schedule import depths_of, solve_shares, stage_layers

_NAME = "sparsevlm"
_DEPTHS = {"depth_1": 3 / 32, "depth_2": 7 / 32, "depth_3": 16 / 32}
_LAST_DEPTH = "depth_4"  # used only by the rank rule
_RANK_RULE = ("scale", "bias", _LAST_DEPTH)
# Shares after the three stages, from most to least: the lists of version 1.5 for 192, 128 and 64 of 576 tokens (300,
# 200, 110; 303, 110, 36; 66, 30, 17) between keeping all tokens and keeping none.
_LADDER = (
    (1.0, 1.0, 1.0),
    (300 / 576, 200 / 576, 110 / 576),
    (303 / 576, 110 / 576, 36 / 576),
    (66 / 576, 30 / 576, 17 / 576),
    (0.0, 0.0, 0.0),
)
_LOWEST_MEAN = (3 * 576 + 4 * 66 + 9 * 30 + 16 * 17) / 32 / 576  # mean over the layers of the list for 64 tokens


@dataclass(frozen=True)
class SparseVLM(ComposedPruning):
    """Drops vision tokens, newlines included, after layers 2, 6 and 15 (from 0) of 32, scaled to the model's depth; the
    rule of version 1.0 drops after layer 19 as well.

    The raters are chosen once, from the input embeddings V of the vision tokens and T of the text after the last of
    them: the columns of softmax(V T^t) over the text, mean over V, that are above the mean of that vector; if there are
    none, the last token. The score is the layer's own post-softmax attention, mean over heads and raters.

    Without a retention_ratio the count is that of version 1.0: min(int(rank * scale + bias), n - 1) of the layer's n
    vision tokens, where rank is the matrix rank of the raters' rows at those columns; if the rank is n, nothing is
    dropped. The published settings are 13.5 / 0, 9 / 6 and 0.8 / 0 for 192, 128 and 64 of 576 tokens.

    With a retention_ratio R each stage leaves a fixed share of the prompt's n vision tokens, int(n * share) and at
    least 1, and the mean over the layers of the shares is R. The shares come from the lists of version 1.5 (see
    `_LADDER`), by linear interpolation between two of them. Below the mean of the last list, 13.7%, the layers before
    the first stage would leave almost nothing for those after it; there the depths shrink in proportion to R, unless
    the request sets them.

    The best `recycled` part of the dropped tokens comes back as clusters (recycling.py): they follow the kept vision
    tokens, count as vision tokens without a tile from then on, and are added to every count above, as in the published
    code. All tokens are then renumbered, so original position ids hold only up to the first stage.

    With quotas the first stage keeps each tile's quota by the score, and every newline; its clusters are added as well.
    The later stages do nothing, and ratio, scale and bias have no effect.
    """

    method = _NAME
    num_layers: int
    stages: tuple[Stage, ...]
    shares: tuple[float, ...] | None  # by stage; None for the rank rule, and with quotas
    scale: float
    bias: float
    recycled: float

    def raters(self, embeddings: torch.Tensor, prompt: PromptLayout) -> torch.Tensor:
        where = prompt.vision.nonzero().flatten()
        if not len(where):
            return last_row(embeddings.device)
        vision = embeddings[where].float()  # [v, Dl]
        text = embeddings[where[-1] + 1 :].float()  # [t, Dl]
        weight = (vision @ text.T).softmax(1).mean(0)  # [t]
        chosen = (weight > weight.mean()).nonzero().flatten()
        return chosen - len(text) if len(chosen) else last_row(embeddings.device)

    def reduce(
        self, stage: int, attention: torch.Tensor, hidden: torch.Tensor, prompt: PromptLayout, *, total: int
    ) -> tuple[torch.Tensor, PromptLayout]:
        rows = attention[:, prompt.vision]  # [r, v]
        score = rows.mean(0)  # [v]
        if prompt.quotas is not None:
            chosen = best_of_tiles(score, prompt.tiles[prompt.vision], prompt.quotas) if stage == 0 else score >= 0
        else:
            chosen = best(score, self._count(stage, rows, total))
        if bool(chosen.all()):
            return hidden, prompt
        kept = ~prompt.vision
        kept[prompt.vision] = chosen
        merged = hidden[:0]
        if self.recycled > 0:
            merged = recycle(hidden[~kept], score[~chosen], self.recycled)  # [clusters, Dl]
        return _insert(hidden, prompt, kept, merged)

    def _count(self, stage: int, rows: torch.Tensor, total: int) -> int:
        """The number of vision tokens to keep of the v in the raters' rows [r, v]."""
        left = rows.shape[1]
        if self.shares is not None:
            return min(max(int(total * self.shares[stage]), 1), left)
        if not left:
            return 0
        rank = int(torch.linalg.matrix_rank(rows))
        return left if rank == left else min(int(rank * self.scale + self.bias), left - 1)


def _insert(
    hidden: torch.Tensor, prompt: PromptLayout, kept: torch.Tensor, merged: torch.Tensor
) -> tuple[torch.Tensor, PromptLayout]:
    """The kept tokens [n] bool, with the clusters [c, Dl] after the last vision token, renumbered from 0."""
    end = int(prompt.vision.nonzero()[-1]) + 1
    indices = kept.nonzero().flatten()
    before, after = indices[indices < end], indices[indices >= end]
    count = len(merged)
    layout = replace(
        prompt,
        vision=torch.cat([prompt.vision[before], prompt.vision.new_ones(count), prompt.vision[after]]),
        tiles=torch.cat([prompt.tiles[before], prompt.tiles.new_full((count,), NO_TILE), prompt.tiles[after]]),
    )
    return torch.cat([hidden[before], merged, hidden[after]]), layout.renumbered()


def _build(settings: Settings) -> SparseVLM:
    ratio, parameters = settings.retention_ratio, settings.parameters
    by_rank = ratio is None and not settings.quotas
    depths = depths_of(parameters, len(_DEPTHS) + by_rank)
    if ratio is not None and not settings.quotas and settings.given.isdisjoint(_DEPTHS):
        depths = [depth * min(1.0, ratio / _LOWEST_MEAN) for depth in depths]
    after = stage_layers(depths, settings, method=_NAME)
    shares: list[float] | None = None
    if ratio is not None and not settings.quotas:
        if contradicting := settings.given.intersection(_RANK_RULE):
            raise InvalidPruningError(
                f"retention_ratio decides the counts of method {_NAME!r}; leave out {min(contradicting)!r} or the ratio"
            )
        shares = solve_shares(_on_ladder, after, ratio, settings, method=_NAME)
    stages = tuple(Stage(layer, layer - 1, shares[number] if shares else None) for number, layer in enumerate(after))
    return SparseVLM(
        settings.num_layers,
        stages,
        tuple(shares) if shares else None,
        scale=parameters["scale"],
        bias=parameters["bias"],
        recycled=parameters["recycled"],
    )


def _on_ladder(place: float) -> list[float]:
    """Shares by stage between the last list (0) and the first (1)."""
    steps = len(_LADDER) - 1
    number = min(int((1 - place) * steps), steps - 1)
    part = (1 - place) * steps - number  # towards the lower list
    upper, lower = _LADDER[number], _LADDER[number + 1]
    return [above + (below - above) * part for above, below in zip(upper, lower, strict=True)]


def _parameters() -> Declared:
    return {
        **{name: Parameter(depth, 0, 1) for name, depth in {**_DEPTHS, _LAST_DEPTH: 20 / 32}.items()},
        "scale": Parameter(13.5, 0, 10_000),
        "bias": Parameter(0, 0, 1_000_000),
        "recycled": Parameter(0.3, 0, 1),
    }


SPARSEVLM = PruningMethod(
    _NAME,
    "Drops vision tokens at three or four depths (of 0 to 1) by the attention of the text that speaks of the image, "
    "and brings part of them back merged; retention_ratio is the mean over the layers, without it the attention's "
    "rank decides; takes quotas (arXiv 2410.04417).",
    _parameters(),
    takes_quotas=True,
    build=_build,
)
