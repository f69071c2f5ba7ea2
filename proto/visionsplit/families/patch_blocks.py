"""Joins square blocks of patches to cells, as models do that call it pixel shuffle."""

import torch


def join_blocks(patches: torch.Tensor, block: int) -> torch.Tensor:
    """The patches of each block side by side, row-major: [t, p * p, D] to [t, P, block * block * D].

    Args:
        patches: of square tiles of p x p patches.
        block: patches along one side of a cell, which divides p; P is (p / block) squared.
    """
    tiles, count, width = patches.shape
    side = int(count**0.5) // block  # cells
    blocks = patches.reshape(tiles, side, block, side, block, width).transpose(2, 3)  # [t, side, side, block, block, D]
    return blocks.reshape(tiles, side * side, block * block * width)


def block_means(values: torch.Tensor, block: int) -> torch.Tensor:
    """The mean of each block's values: [t, p * p, ...] to [t, P, ...]."""
    tiles, count, *rest = values.shape
    joined = join_blocks(values.reshape(tiles, count, -1), block)  # [t, P, block * block * n]
    by_patch = joined.view(tiles, joined.shape[1], block * block, -1)  # [t, P, block * block, n]
    return by_patch.mean(dim=2).reshape(tiles, -1, *rest)


def negative_cosine(patches: torch.Tensor) -> torch.Tensor:
    """How far each patch is from the mean of its tile, [t, p] float32: -cos(x_i, mean x).

    Source: GlobalCom2 (arXiv 2501.05179), appendix 8, the importance of tokens where there is no [CLS].

    Args:
        patches: [t, p, D].
    """
    wide = patches.float()
    return -torch.nn.functional.cosine_similarity(wide, wide.mean(dim=1, keepdim=True), dim=2)
