"""Greedy selections as their papers define them, with a loop for everything; and cases to try them on."""

import numpy as np
import torch
from visionsplit.grid import TileGrid

from encoder_service.compression import TileFeatures, TowerOutput

# Rows and columns of crops, cells along a tile's side, and the image's width and height in pixels; most are padded.
SHAPES = [(2, 2, 6, 672, 672), (1, 2, 6, 700, 500), (2, 1, 5, 90, 640), (1, 3, 4, 640, 90), (2, 3, 5, 333, 500)]


def case(shape, seed, size=12, positive=False):
    """A grid, and features [T, P, size] that lean to one side with scores [T, P], all float32."""
    rows, columns, side, width, height = shape
    grid = TileGrid.padded(height, width, rows=rows, columns=columns, side=side)
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(size, generator=generator)
    features = torch.randn(grid.num_tiles, side * side, size, generator=generator) + shared
    scores = torch.randn(grid.num_tiles, side * side, generator=generator)
    return grid, features, scores.softmax(dim=1) if positive else scores


def encoded(features, scores):
    """What a vision tower might say: these features, and these scores in the senses that selections read."""
    return TileFeatures(features, {TowerOutput.SALIENCE: scores, TowerOutput.CLS_ATTENTION: scores})


def tokens(grid, tile):
    """The valid cells of a tile in raster order: (tile, row, column)."""
    region = grid.valid_in_tile(tile)
    return [
        (tile, row, column) for row in range(region.top, region.bottom) for column in range(region.left, region.right)
    ]


def expected(grid, features, scores, budgets, choose, *, pooled=False):
    """Kept positions of each tile, in picking order.

    Args:
        budgets: tokens of each tile, or with `pooled` of the image.
        choose: gives indices of n tokens, from n, their features [C, D] and their scores [C].
    """
    own = [tokens(grid, tile) for tile in range(grid.num_tiles)]
    rows = [[token for row in own for token in row]] if pooled else own
    picked = []
    for row, budget in zip(rows, [budgets] if pooled else budgets, strict=True):
        vectors = np.array([features[t, r * grid.side + c].double().numpy() for t, r, c in row])
        values = np.array([float(scores[t, r * grid.side + c]) for t, r, c in row])
        picked += [row[index] for index in (choose(budget, vectors, values) if row else [])]
    return [[token for token in picked if token[0] == tile] for tile in range(grid.num_tiles)]


def positions(kept):
    """The same of what was kept."""
    return [[tuple(position) for position in tile.tolist()] for tile in kept.positions]


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b) / lengths if lengths else 0.0


def as_weights(scores, power):
    """From 0, the lowest, to 1, the highest."""
    return proportional([score - min(scores) for score in scores], power)


def proportional(scores, power):
    """The highest 1 and none negative: shifted only where some are."""
    shifted = [score - min(0.0, *scores) for score in scores]
    highest = max(shifted)
    return [(score / highest if highest else 1.0) ** power for score in shifted]


def best(values):
    """The index of the highest of {index: value}; of equals the first."""
    return min(values, key=lambda index: (-values[index], index))


def max_min(count, vectors, weights, preference=None):
    """DivPrune: first the token whose nearest other is farthest, then that whose nearest kept one is farthest."""
    everyone = range(len(vectors))
    distance = [[1 - cosine(vectors[i], vectors[j]) for j in everyone] for i in everyone]
    kept = []
    while len(kept) < count:
        values = {}
        for i in everyone:
            if i in kept:
                continue
            others = kept or [j for j in everyone if j != i]
            nearest = min((distance[i][j] for j in others), default=1.0)
            liking = preference[i] if kept and preference is not None else 1.0
            values[i] = nearest * weights[i] * liking
        kept.append(best(values))
    return kept


def centred_max_min(count, vectors, weights):
    """Cen-Prune around DivPrune: residuals of the mean token, times distinctiveness from the second pick on."""
    residuals, distinct = centred(vectors)
    return max_min(count, residuals, weights, distinct)


def centred(vectors):
    """Cen-Prune's residuals of the mean, and how distinct each token is from the others before centring."""
    number = len(vectors)
    mean = sum(vectors) / number
    raw = [
        -sum(cosine(vectors[i], vectors[j]) for j in range(number) if j != i) / max(number - 1, 1)
        for i in range(number)
    ]
    distinct = [(g - min(raw)) / (max(raw) - min(raw) + 1e-6) for g in raw]
    return [vector - mean for vector in vectors], distinct


def coverage(count, vectors, weights):
    """SCOPE: gain in the sum of each token's highest cosine to a kept one, times the weight."""
    everyone = range(len(vectors))
    similar = [[cosine(vectors[i], vectors[j]) for j in everyone] for i in everyone]

    def covered(kept):
        return sum(max([0.0] + [similar[u][v] for v in kept]) for u in everyone)

    kept = []
    while len(kept) < count:
        already = covered(kept)
        kept.append(best({v: (covered([*kept, v]) - already) * weights[v] for v in everyone if v not in kept}))
    return kept


def determinantal(count, vectors, weights):
    """Each pick makes the determinant of the kept tokens' kernel largest."""
    everyone = range(len(vectors))
    kernel = np.array([[weights[i] * cosine(vectors[i], vectors[j]) * weights[j] for j in everyone] for i in everyone])
    kept: list[int] = []
    while len(kept) < count:
        kept.append(best({i: np.linalg.det(kernel[np.ix_([*kept, i], [*kept, i])]) for i in everyone if i not in kept}))
    return kept


def centred_determinantal(count, vectors, weights):
    """Cen-Prune around a determinantal choice."""
    residuals, distinct = centred(vectors)
    return determinantal(count, residuals, [w * g for w, g in zip(weights, distinct, strict=True)])
