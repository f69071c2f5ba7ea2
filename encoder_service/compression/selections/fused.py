"""Whether the kernel of `volume_program` can be used on a device, found out by using it."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
from torch.nn import functional

_log = logging.getLogger(__name__)
_ROWS, _CELLS, _WIDTH, _PICKS = 3, 200, 64, 24  # of the trial
_NOTHING_LEFT = 1e-5


class FusedPick(Protocol):
    """`volume_program.pick`."""

    def __call__(
        self,
        features: torch.Tensor,
        worth: torch.Tensor,
        padding: torch.Tensor,
        budgets: Sequence[int],
        nothing_left: float,
    ) -> torch.Tensor: ...


@cache
def fused_pick(device: torch.device) -> FusedPick | None:
    """The kernel, compiled and tried out on a GPU; None on other devices, and where it does not work.

    Triton needs a C compiler beside the GPU, which small container images lack. PyTorch's operations choose the same
    tokens there and take longer, so the reason is logged and the service runs.
    """
    if device.type != "cuda":
        return None
    try:
        from encoder_service.compression.selections.volume_program import pick

        if agrees(pick, device, torch.bfloat16) and agrees(pick, device, torch.float32):
            return pick
        reason = "it picked other tokens than PyTorch's operations"
    except Exception as error:  # of any class: Triton or a compiler may be missing, or the GPU not supported
        reason = f"{type(error).__name__}: {error}"
    _log.warning("greedy selections run as PyTorch operations, which take longer; the Triton kernel fails: %s", reason)
    return None


def agrees(pick: FusedPick, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a kernel picks the right cells of random rows of some type, of which one is padded."""
    generator = torch.Generator().manual_seed(0)
    features = (torch.randn(_ROWS, _CELLS, _WIDTH, generator=generator) + 0.5).to(dtype)
    worth = torch.rand(_ROWS, _CELLS, generator=generator)
    padding = torch.zeros(_ROWS, _CELLS, dtype=torch.bool)
    padding[-1, _CELLS // 2 :] = True
    budgets = [_PICKS, 1, _PICKS // 2]
    units = functional.normalize(features.double(), dim=2)  # [t, C, Dv]
    expected = [_picks(*row) for row in zip(units @ units.mT, worth.double(), padding, budgets, strict=True)]
    found = pick(features.to(device), worth.to(device), padding.to(device), budgets, _NOTHING_LEFT).tolist()
    return all(row[: len(own)] == own for row, own in zip(found, expected, strict=True))


def _picks(cosines: torch.Tensor, worth: torch.Tensor, padding: torch.Tensor, number: int) -> list[int]:
    """A row's picks by definition: always the longest remainder outside the span of the picks, times its worth."""
    picked: list[int] = []
    for _ in range(number):
        across = cosines[:, picked]  # [C, k]
        inside = (across @ torch.linalg.inv(cosines[picked][:, picked]) * across).sum(dim=1)  # [C], squared lengths
        gains = (1.0 - inside).clamp(min=0.0).sqrt() * worth
        gains[padding] = -1.0
        gains[picked] = -1.0
        picked.append(int(gains.argmax()))
    return picked
