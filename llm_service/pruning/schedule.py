"""The layers of a multi-stage method's stages, and the share of the vision tokens that each stage leaves."""

import math
from collections.abc import Callable

from visionsplit.errors import InvalidPruningError
from visionsplit.options.parameters import Parameters

from llm_service.pruning.base import Settings, layer_average

NUM_STAGES = 3
_BISECTIONS = 60  # halvings of [0, 1]: more than the precision of a double


def depths_of(parameters: Parameters, count: int = NUM_STAGES) -> list[float]:
    """The stages' depths from the parameters."""
    return [parameters[f"depth_{number}"] for number in range(1, count + 1)]


def stage_layers(depths: list[float], settings: Settings, *, method: str) -> list[int]:
    """Layers that run before each stage: depth * layers, rounded, at least 1, and each after the one before.

    Raises:
        InvalidPruningError: the model is too shallow, or the depths do not ascend.
    """
    layers, count = settings.num_layers, len(depths)
    if layers <= count:
        raise InvalidPruningError(
            f"method {method!r} has {count} stages between layers; the model's {layers} layers are too few"
        )
    if depths != sorted(depths):
        raise InvalidPruningError(f"the depths of method {method!r} must ascend; they are {_numbers(depths)}")
    after: list[int] = []
    for number, depth in enumerate(depths):
        earliest = after[-1] + 1 if after else 1
        latest = layers - (count - number)  # leaves a layer for each later stage
        after.append(min(max(math.floor(depth * layers + 0.5), earliest), latest))
    return after


def solve_shares(
    shares_at: Callable[[float], list[float]], after: list[int], ratio: float, settings: Settings, *, method: str
) -> list[float]:
    """Solve for the shares whose mean over the layers is `ratio`, in a family from least (0) to most (1).

    Raises:
        InvalidPruningError: the layers before the first stage alone exceed the ratio.
    """

    def average(place: float) -> float:
        return layer_average(after, shares_at(place), settings.num_layers)

    low, high = 0.0, 1.0
    least = average(low)
    if ratio < least:
        raise InvalidPruningError(
            f"retention_ratio {ratio:g} is out of reach for method {method!r}: the {after[0]} of "
            f"{settings.num_layers} layers before its first stage see every token, so {least:.4g} is the least"
        )
    # The mean is continuous from `least` to 1, so bisection finds a solution even where it is not monotone.
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if average(middle) <= ratio else (low, middle)
    return shares_at(low if ratio < 1 else 1.0)


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
