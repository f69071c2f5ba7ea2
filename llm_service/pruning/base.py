"""The interface of pruning inside the language model: stages between layers, each of which drops vision tokens.

A method never sees a model. It names the layers at which it acts and the rows of attention that it needs;
`engines/layerwise` runs the layers, passes it those rows, and takes back the remaining sequence.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from visionsplit.options.parameters import Declared, Parameters

NO_TILE = -1  # for text, newlines and merged tokens


@dataclass(frozen=True)
class PromptLayout:
    """What each token of a sequence is, in order: of a whole prompt, or of what remains after a stage."""

    vision: torch.Tensor  # [n] bool; newlines are vision tokens
    tiles: torch.Tensor  # [n] int64: a vision token's tile, numbered consecutively over all images; else NO_TILE
    positions: torch.Tensor  # [n] int64, ascending: position ids
    quotas: torch.Tensor | None = None  # [tiles] int64: vision tokens of each tile to keep, newlines not counted

    def __len__(self) -> int:
        return len(self.vision)

    @property
    def num_vision(self) -> int:
        return int(self.vision.sum())

    @classmethod
    def of(
        cls,
        vision: torch.Tensor,
        *,
        tiles: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        quotas: torch.Tensor | None = None,
    ) -> "PromptLayout":
        """The layout of a whole prompt; without `positions` they are 0, 1, 2 and so on.

        The last token always counts as text: the answer starts from it, so no method may drop it.
        """
        count, device = len(vision), vision.device
        vision = vision.clone()
        vision[-1:] = False
        tiles = torch.full((count,), NO_TILE, device=device) if tiles is None else tiles
        positions = torch.arange(count, device=device) if positions is None else positions
        return cls(vision, tiles.masked_fill(~vision, NO_TILE), positions, quotas)

    def select(self, indices: torch.Tensor) -> "PromptLayout":
        """The layout of the tokens at some indices [m], in that order, with their positions."""
        return replace(self, vision=self.vision[indices], tiles=self.tiles[indices], positions=self.positions[indices])

    def renumbered(self) -> "PromptLayout":
        """The same tokens with consecutive positions from 0."""
        return replace(self, positions=torch.arange(len(self), device=self.vision.device))


@dataclass(frozen=True)
class Stage:
    """A point between two layers at which vision tokens are dropped."""

    after: int  # number of layers that run before it
    rated_by: int  # index of the layer whose attention decides: `after - 1`, or `after` for the next layer
    share: float | None  # share of the prompt's vision tokens that remains after it; None if the prompt decides


class ComposedPruning(ABC):
    """A checked method, ready to run on any prompt. Has no state, and can be pickled."""

    method: str
    num_layers: int
    stages: tuple[Stage, ...]  # in order

    @abstractmethod
    def raters(self, embeddings: torch.Tensor, prompt: PromptLayout) -> torch.Tensor:
        """The tokens whose attention rates the vision tokens.

        Args:
            embeddings: [n, Dl] the first layer's input.
            prompt: the layout of the whole prompt.

        Returns:
            [r] int64 rows counted from the end (-1 is the last). They lie after the last vision token, where no token
            is ever dropped, so the indices stay valid at every stage.
        """

    @abstractmethod
    def reduce(
        self, stage: int, attention: torch.Tensor, hidden: torch.Tensor, prompt: PromptLayout, *, total: int
    ) -> tuple[torch.Tensor, PromptLayout]:
        """Drop vision tokens at a stage.

        Args:
            stage: index into `stages`.
            attention: [r, n] float32, the raters' rows of post-softmax attention, mean over heads.
            hidden: [n, Dl] the next layer's input.
            prompt: the layout of the n tokens.
            total: the number of vision tokens in the whole prompt.

        Returns:
            [m, Dl] and the layout of the m remaining tokens. All text remains; the last token is still the last.
        """

    @property
    def average_share(self) -> float | None:
        """Planned share of the vision tokens, mean over the layers; None if the prompt decides."""
        shares = [stage.share for stage in self.stages]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        return layer_average([stage.after for stage in self.stages], known, self.num_layers)


@dataclass(frozen=True)
class Settings:
    """A request's pruning settings, each checked for its range; the method checks them in combination."""

    num_layers: int
    retention_ratio: float | None  # (0, 1]
    parameters: Parameters  # every declared parameter
    given: frozenset[str]  # the parameters that the request set
    quotas: bool  # whether the prompt comes with quotas, which then decide the counts


@dataclass(frozen=True)
class PruningMethod:
    """A method that requests may name."""

    name: str
    description: str
    parameters: Declared
    takes_quotas: bool
    # Raises InvalidPruningError if the settings contradict each other or do not suit the model's depth.
    build: Callable[[Settings], ComposedPruning]


def layer_average(after: list[int], shares: list[float], num_layers: int) -> float:
    """Mean over the layers of the share of tokens that each sees: 1 before the first stage, then each stage's share."""
    ends = [*after, num_layers]
    lengths = [end - start for start, end in zip([0, *after], ends, strict=True)]
    return sum(length * share for length, share in zip(lengths, [1.0, *shares], strict=True)) / num_layers


def last_row(device: torch.device) -> torch.Tensor:
    """The raters of methods that use only the prompt's last token: [1]."""
    return torch.tensor([-1], device=device)


def best(score: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` highest of the scores [n], [n] bool; of equal scores the earlier one wins."""
    order = torch.argsort(score, descending=True, stable=True)
    chosen = torch.zeros_like(score, dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def best_of_tiles(score: torch.Tensor, tiles: torch.Tensor, quotas: torch.Tensor) -> torch.Tensor:
    """Mark the scores [n] among the highest `quotas[tile]` of their tile, [n] bool; tokens without a tile are all kept.

    Args:
        score: [n].
        tiles: [n] int64, NO_TILE for newlines.
        quotas: [tiles] int64.
    """
    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(tiles[order], stable=True)]  # tile after tile, each from its highest score down
    sorted_tiles = tiles[order].contiguous()
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_tiles, sorted_tiles)
    kept = (sorted_tiles == NO_TILE) | (rank < quotas[sorted_tiles.clamp(min=0)])
    chosen = torch.zeros_like(kept)
    chosen[order] = kept
    return chosen
