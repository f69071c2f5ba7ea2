"""How a request wants the language model to read its vision tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from visionsplit.options.parameters import check_numbers

# The positions of the kept tokens in the language model's position encoding.
# renumbered: consecutive, without gaps. original: as if every vision token had been kept.
PositionIds = Literal["renumbered", "original"]
POSITION_IDS: tuple[PositionIds, ...] = get_args(PositionIds)


@dataclass(frozen=True)
class Pruning:
    """Which vision tokens the language model drops between its layers. `Client.llm_info()` lists the methods.

    It may follow any compression. With `Compression.quotas_only` it keeps of each tile as many tokens as the
    compression would, chosen by its own score. The LLM service refuses unknown names and values out of range with
    `InvalidPruningError`.

    Raises:
        TypeError: a parameter is not a number.
    """

    method: str
    retention_ratio: float | None = None  # share of the vision tokens to keep, in (0, 1]; None: as published
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_numbers(self.parameters)


@dataclass(frozen=True)
class Prefill:
    """How the language model reads one prompt.

    Raises:
        ValueError: there are no such position ids.
    """

    pruning: Pruning | None = None  # None drops nothing
    position_ids: PositionIds = "renumbered"

    def __post_init__(self) -> None:
        if self.position_ids not in POSITION_IDS:
            raise ValueError(f"position ids {self.position_ids!r} are unknown; {', '.join(POSITION_IDS)} exist")
