"""The greedy choice of `determinantal` as one kernel for a GPU: a program picks all cells of a row.

PyTorch's operations take some twenty kernels for a pick, each of which waits for the one before. Here a program holds
the state of its row in registers, and the host launches once for all tiles of a batch. A row's picks depend on no other
row. Imports Triton, which PyTorch's builds for GPUs bring along.
"""

# ruff: noqa: ANN001, ANN202 - Triton reads the annotations of a kernel as its own types

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

_WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _pick(  # type: ignore[no-untyped-def]
    cosines,  # [t, C, C] float32
    worth,  # [t, C] float32
    padding,  # [t, C] bool
    budgets,  # [t] int32
    columns,  # [t, most, C] float32, which this program alone writes and reads
    order,  # [t, most] int64, the picks
    cells,
    most,
    nothing_left,
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    cell = tl.arange(0, BLOCK)
    inside = cell < cells
    value = tl.load(worth + row * cells + cell, mask=inside, other=0.0)
    taken = tl.load(padding + row * cells + cell, mask=inside, other=1) != 0
    # The squared length of each direction: exactly 1, so that equals stay equal, or 0 for a vector without length.
    left = tl.load(cosines + (row * cells + cell) * cells + cell, mask=inside, other=0.0)
    left = tl.where(left > 0.5, 1.0, 0.0)
    columns += row * most * cells
    for number in range(0, tl.load(budgets + row)):
        gains = tl.where(left > nothing_left, tl.sqrt_rn(tl.maximum(left, 0.0)) * value, value - 2.0)
        picked = tl.argmax(tl.where(taken, float("-inf"), gains), axis=0, tie_break_left=True)
        tl.store(order + row * most + number, picked.to(tl.int64))
        beyond = tl.load(cosines + (row * cells + picked) * cells + cell, mask=inside, other=0.0)
        for earlier in range(0, number):
            before = tl.load(columns + earlier * cells + cell, mask=inside, other=0.0)
            beyond -= tl.load(columns + earlier * cells + picked) * before
        own_left = tl.sum(tl.where(cell == picked, left, 0.0), axis=0)
        length = tl.sqrt_rn(tl.maximum(own_left, nothing_left))
        column = tl.where(own_left > nothing_left, tl.div_rn(beyond, length), 0.0)
        tl.store(columns + number * cells + cell, column, mask=inside)
        # In the next rounds, other threads of the program read single elements of this column.
        tl.debug_barrier()
        left -= column * column
        taken = taken | (cell == picked)


def pick(
    cosines: torch.Tensor, worth: torch.Tensor, padding: torch.Tensor, budgets: Sequence[int], nothing_left: float
) -> torch.Tensor:
    """The picks of each row, [t, most] int64 with `most` the largest budget; a row has as many as its budget says.

    Args:
        cosines: of each pair of a row's cells, [t, C, C] float32.
        worth: [t, C] float32, from 0 to 1.
        padding: cells that are never picked, [t, C] bool.
        budgets: of each row.
        nothing_left: the part of a direction's squared length below which it lies in the span of the picks.
    """
    tiles, cells = worth.shape
    most, device = max(budgets), worth.device
    order = torch.zeros(tiles, most, dtype=torch.int64, device=device)
    columns = torch.empty(tiles, most, cells, device=device)
    counts = torch.tensor(budgets, dtype=torch.int32).to(device, non_blocking=True)
    arguments: tuple[Any, ...] = (cosines, worth.contiguous(), padding, counts, columns, order, cells, most)
    _pick[(tiles,)](*arguments, nothing_left, BLOCK=triton.next_power_of_2(cells), num_warps=_WARPS)
    return order
