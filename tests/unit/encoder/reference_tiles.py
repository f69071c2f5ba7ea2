"""Grids, and what a tower might say of their tiles, for tests against slow implementations."""

import itertools
import random

import numpy as np
import torch
from visionsplit.grid import TileGrid

from encoder_service.compression import Plan, TileFeatures, TowerOutput, compose, take

FEATURE_SIZE, KEY_SIZE = 6, 5
RATIOS = (0.03, 0.05, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 0.97)


def grids(side=6):
    """Several shapes, most with padding, some with crops of nothing but padding or of few cells."""
    choice = random.Random(side)
    shapes = [(1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 3)]
    sizes = [(672, 672), (3000, 20), (20, 3000), (1, 1)]
    sizes += [(choice.randint(1, 1500), choice.randint(1, 1500)) for _ in range(6)]
    return [
        TileGrid.padded(height, width, rows=rows, columns=columns, side=side)
        for (rows, columns), (height, width) in itertools.product(shapes, sizes)
    ]


def valid_cells(grid, tile):
    """The tile's cells that show image, in raster order."""
    region = grid.valid_in_tile(tile)
    return [
        row * grid.side + column
        for row in range(region.top, region.bottom)
        for column in range(region.left, region.right)
    ]


def by_chance(grid, seed=0):
    """Features and every output by chance, each output another one; attention like a softmax with a few high values."""
    generator = torch.Generator().manual_seed(seed)
    shape = (grid.num_tiles, grid.cells_per_tile)
    outputs = {}
    for output in TowerOutput:
        if output in (TowerOutput.KEYS, TowerOutput.LAST_KEYS):
            outputs[output] = torch.randn(*shape, KEY_SIZE, generator=generator)
        elif output is TowerOutput.SALIENCE:
            outputs[output] = torch.randn(*shape, generator=generator)
        else:
            outputs[output] = (1.5 * torch.randn(*shape, generator=generator)).softmax(dim=1)
    return TileFeatures(torch.randn(*shape, FEATURE_SIZE, generator=generator), outputs)


def arrays(encoded, tile, *outputs):
    """The tile's features and some outputs as NumPy arrays of double precision, [P, ...] each."""
    tensors = [encoded.features, *(encoded.outputs[output] for output in outputs)]
    return [tensor[tile].double().numpy() for tensor in tensors]


def best_first(scores, cells):
    """The cells by falling score; the scores are all different."""
    return sorted(cells, key=lambda cell: -scores[cell])


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def kept_cells(kept, grid):
    """The cells of each tile as the service kept them, in picking order."""
    cells = []
    for tile, positions in enumerate(kept.positions):
        assert positions[:, 0].tolist() == [tile] * len(positions)
        cells.append((positions[:, 1] * grid.side + positions[:, 2]).tolist())
        assert len(set(cells[-1])) == len(cells[-1])
        assert set(cells[-1]) <= set(valid_cells(grid, tile))
    assert kept.budgets == [len(tile) for tile in cells]
    return cells


def features_by_tile(kept):
    return [features.double().numpy() for features in torch.split(kept.features, kept.budgets)]


def in_pieces(encoded, grid, spec, choice):
    """Numbers and features of an image's kept tokens where its tiles arrive in pieces of random sizes."""
    plan = Plan(compose(spec), grid, torch.device("cpu"))
    pieces, first = [], 0
    while first < grid.num_tiles:
        stop = choice.randint(first + 1, grid.num_tiles)
        piece = take(plan, first, stop, encoded.tiles(first, stop))
        if piece is not None:
            pieces.append(piece)
        first = stop
    return (
        plan,
        plan.positions(torch.cat([piece.numbers for piece in pieces])),
        torch.cat([piece.features for piece in pieces]),
    )
