"""The greedy choice of `determinantal` as two kernels for a GPU: all products of a row's cells, then all its picks.

PyTorch's operations take some twenty kernels for a pick, each of which waits for the one before. Here a program holds
the state of its row in registers, and the host launches twice for all tiles of a batch. What a row picks depends on no
other row. Imports Triton, which PyTorch's builds for GPUs bring along.
"""

# ruff: noqa: ANN001, ANN202 - Triton reads the annotations of a kernel as its own types

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

_WARPS = 8
_EDGE, _DEPTH = 64, 32  # of a block of products, in cells and in components


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    features,  # [t, C, Dv], of any type
    products,  # [t, C, C] float32
    cells,
    width,
    EDGE: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    above = tl.program_id(1) * EDGE + tl.arange(0, EDGE)[:, None]
    beside = tl.program_id(2) * EDGE + tl.arange(0, EDGE)[None, :]
    features += row * cells * width
    total = tl.zeros((EDGE, EDGE), tl.float32)
    for start in range(0, width, DEPTH):
        across = start + tl.arange(0, DEPTH)[None, :]
        down = start + tl.arange(0, DEPTH)[:, None]
        left = tl.load(features + above * width + across, mask=(above < cells) & (across < width), other=0.0)
        right = tl.load(features + beside * width + down, mask=(beside < cells) & (down < width), other=0.0)
        # Products of half precision are exact in float32; "ieee" keeps those of float32 from being rounded to TF32.
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(products + row * cells * cells + above * cells + beside, total, mask=(above < cells) & (beside < cells))


@triton.jit  # type: ignore[untyped-decorator]
def _pick(  # type: ignore[no-untyped-def]
    products,  # [t, C, C] float32, of each pair of cells
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
    squares = tl.load(products + (row * cells + cell) * cells + cell, mask=inside, other=0.0)
    scale = tl.where(squares > 0.0, tl.div_rn(1.0, tl.sqrt_rn(squares)), 0.0)
    # The squared length of each direction: exactly 1, so that equals stay equal, or 0 for a vector without length.
    left = tl.where(squares > 0.0, 1.0, 0.0)
    columns += row * most * cells
    for number in range(0, tl.load(budgets + row)):
        gains = tl.where(left > nothing_left, tl.sqrt_rn(tl.maximum(left, 0.0)) * value, value - 2.0)
        picked = tl.argmax(tl.where(taken, float("-inf"), gains), axis=0, tie_break_left=True)
        picked = tl.minimum(picked, cells - 1)  # also where every gain is NaN: the image is refused when it is packed
        tl.store(order + row * most + number, picked.to(tl.int64))
        chosen = cell == picked
        beyond = tl.load(products + (row * cells + picked) * cells + cell, mask=inside, other=0.0)
        beyond *= scale * tl.sum(tl.where(chosen, scale, 0.0), axis=0)  # the cosines
        for earlier in range(0, number):
            before = tl.load(columns + earlier * cells + cell, mask=inside, other=0.0)
            beyond -= tl.load(columns + earlier * cells + picked) * before
        own_left = tl.sum(tl.where(chosen, left, 0.0), axis=0)
        length = tl.sqrt_rn(tl.maximum(own_left, nothing_left))
        column = tl.where(own_left > nothing_left, tl.div_rn(beyond, length), 0.0)
        tl.store(columns + number * cells + cell, column, mask=inside)
        # In the next rounds, other threads of the program read single elements of this column.
        tl.debug_barrier()
        left -= column * column
        taken = taken | chosen


def pick(
    features: torch.Tensor, worth: torch.Tensor, padding: torch.Tensor, budgets: Sequence[int], nothing_left: float
) -> torch.Tensor:
    """The picks of each row, [t, most] int64 with `most` the largest budget; a row has as many as its budget says.

    Args:
        features: of each row's cells, [t, C, Dv], whose directions are compared.
        worth: [t, C] float32, from 0 to 1.
        padding: cells that are never picked, [t, C] bool.
        budgets: of each row.
        nothing_left: the part of a direction's squared length below which it lies in the span of the picks.
    """
    tiles, cells, width = features.shape
    most, device = max(budgets), features.device
    products = torch.empty(tiles, cells, cells, device=device)
    blocks = triton.cdiv(cells, _EDGE)
    _multiply[(tiles, blocks, blocks)](features.contiguous(), products, cells, width, EDGE=_EDGE, DEPTH=_DEPTH)
    order = torch.zeros(tiles, most, dtype=torch.int64, device=device)
    columns = torch.empty(tiles, most, cells, device=device)
    counts = torch.tensor(budgets, dtype=torch.int32).to(device, non_blocking=True)
    arguments: tuple[Any, ...] = (products, worth.contiguous(), padding.contiguous(), counts, columns, order)
    block = triton.next_power_of_2(cells)
    _pick[(tiles,)](*arguments, cells, most, nothing_left, BLOCK=block, num_warps=_WARPS)
    return order
