"""What pruning inside the language model is: stages between layers, and at each a choice of vision tokens.

A method never sees a model. It says at which layers it acts and which rows of attention it needs; whoever runs the
layers (`engines/layerwise`) hands it those rows and takes back what is left of the sequence.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from visionsplit.options.parameters import Declared, Parameters

NO_TILE = -1  # of text, newlines and merged tokens


@dataclass(frozen=True)
class PromptLayout:
    """What the tokens of a sequence are, in their order: of a whole prompt, or of what a stage has left of it."""

    vision: torch.Tensor  # [n] bool; newlines are vision tokens
    tiles: torch.Tensor  # [n] int64: the tile of a vision token, counted through over the images; else NO_TILE
    positions: torch.Tensor  # [n] int64, ascending: places in the position encoding
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
        """A whole prompt; without `positions` they are counted through.

        The last token is text here whatever it is: the answer starts from it, so nothing may drop it.
        """
        count, device = len(vision), vision.device
        vision = vision.clone()
        vision[-1:] = False
        tiles = torch.full((count,), NO_TILE, device=device) if tiles is None else tiles
        positions = torch.arange(count, device=device) if positions is None else positions
        return cls(vision, tiles.masked_fill(~vision, NO_TILE), positions, quotas)

    def select(self, indices: torch.Tensor) -> "PromptLayout":
        """The tokens at some indices [m], in that order, where they were."""
        return replace(self, vision=self.vision[indices], tiles=self.tiles[indices], positions=self.positions[indices])

    def renumbered(self) -> "PromptLayout":
        """The same tokens counted through from 0."""
        return replace(self, positions=torch.arange(len(self), device=self.vision.device))


@dataclass(frozen=True)
class Stage:
    """One place between layers where vision tokens are dropped."""

    after: int  # layers that run before it
    rated_by: int  # index of the layer whose attention decides: `after - 1`, or `after` for the layer to come
    share: float | None  # of the prompt's vision tokens that are left after it; None where the prompt decides


class ComposedPruning(ABC):
    """A checked method, ready to run on any prompt. Has no state, and can be pickled."""

    method: str
    num_layers: int
    stages: tuple[Stage, ...]  # in order

    @abstractmethod
    def raters(self, embeddings: torch.Tensor, prompt: PromptLayout) -> torch.Tensor:
        """The tokens whose attention decides.

        Args:
            embeddings: [n, Dl] what enters the first layer.
            prompt: of the whole prompt.

        Returns:
            [r] int64 rows counted from the end (-1 is the last). They lie after the last vision token, where nothing
            is ever dropped, so they stay right at every stage.
        """

    @abstractmethod
    def reduce(
        self, stage: int, attention: torch.Tensor, hidden: torch.Tensor, prompt: PromptLayout, *, total: int
    ) -> tuple[torch.Tensor, PromptLayout]:
        """What is left after a stage.

        Args:
            stage: index into `stages`.
            attention: [r, n] float32, the raters' rows of post-softmax attention, mean over heads.
            hidden: [n, Dl] what the next layer would read.
            prompt: of the n tokens.
            total: vision tokens of the whole prompt.

        Returns:
            [m, Dl] and the layout of the m tokens. All text is there; the last token is the last.
        """

    @property
    def average_share(self) -> float | None:
        """Planned share of the vision tokens, mean over the layers; None where the prompt decides."""
        shares = [stage.share for stage in self.stages]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        return layer_average([stage.after for stage in self.stages], known, self.num_layers)


@dataclass(frozen=True)
class Settings:
    """A request's numbers, checked one by one; what they mean together the method checks."""

    num_layers: int
    retention_ratio: float | None  # (0, 1]
    parameters: Parameters  # every declared one
    given: frozenset[str]  # the names that the request set itself
    quotas: bool  # whether the prompt comes with quotas, which then decide the counts


@dataclass(frozen=True)
class PruningMethod:
    """A method that a request may name."""

    name: str
    description: str
    parameters: Declared
    takes_quotas: bool
    # Raises InvalidPruningError where the settings do not go together or with the model's depth.
    build: Callable[[Settings], ComposedPruning]


def layer_average(after: list[int], shares: list[float], num_layers: int) -> float:
    """Mean over the layers of the share they see: 1 up to the first stage, then each stage's."""
    ends = [*after, num_layers]
    lengths = [end - start for start, end in zip([0, *after], ends, strict=True)]
    return sum(length * share for length, share in zip(lengths, [1.0, *shares], strict=True)) / num_layers


def last_row(device: torch.device) -> torch.Tensor:
    """The raters of methods that ask the prompt's last token: [1]."""
    return torch.tensor([-1], device=device)


def best(score: torch.Tensor, count: int) -> torch.Tensor:
    """Which `count` of the scores [n] are highest, [n] bool; among equals the earlier."""
    order = torch.argsort(score, descending=True, stable=True)
    chosen = torch.zeros_like(score, dtype=torch.bool)
    chosen[order[:count]] = True
    return chosen


def best_of_tiles(score: torch.Tensor, tiles: torch.Tensor, quotas: torch.Tensor) -> torch.Tensor:
    """Which scores [n] are among the highest `quotas[tile]` of their tile, [n] bool; tokens without tile all are.

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
