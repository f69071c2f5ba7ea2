"""Chooses the tokens of several images' tiles together, as they come out of one batch of the vision tower.

The images share what takes time on a device: one copy of the numbers that decide their budgets, so that the host waits
once; and one run of a selection, whose steps then work on all their tiles. A row's picks do not depend on other rows.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from visionsplit.errors import VisionSplitError
from visionsplit.families.tower_outputs import TileFeatures

from encoder_service.compression.base import Composition, Picks
from encoder_service.compression.candidates import stacked
from encoder_service.compression.plan import Arrived, Choice, KeptTokens, Plan


@dataclass(frozen=True)
class NextTiles:
    """The next tiles of one image, [first_tile, stop_tile)."""

    plan: Plan
    first_tile: int
    stop_tile: int
    encoded: TileFeatures


Taken = KeptTokens | VisionSplitError | None


@dataclass
class _Work:
    """One image on its way through the steps."""

    plan: Plan
    arrived: Arrived | None
    choice: Choice | None = None
    failure: VisionSplitError | None = None


def take(plan: Plan, first_tile: int, stop_tile: int, encoded: TileFeatures) -> KeptTokens | None:
    """Choose the tokens of the next tiles of one image; None while its composition waits for the rest.

    Raises:
        InvalidCompressionError: no token would be kept.
        InternalError: the values that decide the budgets are not finite.
    """
    (taken,) = take_together([NextTiles(plan, first_tile, stop_tile, encoded)])
    if isinstance(taken, VisionSplitError):
        raise taken
    return taken


def take_together(tiles: Sequence[NextTiles]) -> list[Taken]:
    """Choose the tokens of the next tiles of several images.

    Returns:
        For each image its tokens, None while its composition waits for the rest of it, or the error that concerns it
        alone: that of `take`.
    """
    works = [_Work(one.plan, one.plan.arrive(one.first_tile, one.stop_tile, one.encoded)) for one in tiles]
    _decide(works)
    picks = _pick(works)
    return [_taken(work, picks.get(index)) for index, work in enumerate(works)]


def _decide(works: Sequence[_Work]) -> None:
    """Fix the budgets of all images, and what has to be chosen."""
    measured = [None if work.arrived is None else work.plan.measure(work.arrived) for work in works]
    numbers = iter(_to_host([values for values in measured if values is not None]))
    for work, values in zip(works, measured, strict=True):
        own = [] if values is None else next(numbers)
        if work.arrived is None:
            continue
        try:
            work.plan.decide(work.arrived, own)
        except VisionSplitError as error:
            work.failure = error
        else:
            work.choice = work.plan.choice(work.arrived)


def _to_host(parts: Sequence[torch.Tensor]) -> list[list[float]]:
    """The numbers of all parts, copied together."""
    if not parts:
        return []
    numbers = iter(torch.cat(list(parts)).tolist())
    return [[next(numbers) for _ in range(len(part))] for part in parts]


def _pick(works: Sequence[_Work]) -> dict[int, Picks]:
    """The picks of each image that has a choice, by its index; equal selections run once."""
    groups: dict[Hashable, list[int]] = {}
    for index, work in enumerate(works):
        if work.choice is not None:
            groups.setdefault(_group(index, work.choice, work.plan.composition), []).append(index)
    found: dict[int, Picks] = {}
    for indices in groups.values():
        choices = [choice for index in indices if (choice := works[index].choice) is not None]
        composition = works[indices[0]].plan.composition
        selection = composition.selection
        candidates = stacked([choice.candidates for choice in choices], selection.needs)
        budgets = [budget for choice in choices for budget in choice.budgets]
        picks = selection.pick(candidates, budgets, composition.parameters)
        first = 0
        for index, choice in zip(indices, choices, strict=True):
            found[index] = picks.rows(first, first + len(choice.budgets))
            first += len(choice.budgets)
    return found


def _group(index: int, choice: Choice, composition: Composition) -> Hashable:
    """What images must have in common for one run of a selection.

    With the ratio, since every row is picked from as often as the one with the largest budget. A single row for a whole
    image stays alone: the similarities of its cells take a hundred megabytes.
    """
    if choice.row is not None:
        return index
    candidates = choice.candidates
    return (
        composition.selection.name,
        composition.retention_ratio,
        tuple(sorted(composition.parameters.items())),
        candidates.worth.shape[1],
        candidates.worth_is_weight,
        candidates.adaptive,
    )


def _taken(work: _Work, picks: Picks | None) -> Taken:
    if work.failure is not None or work.arrived is None:
        return work.failure
    return work.plan.kept(work.arrived, work.choice, picks)
