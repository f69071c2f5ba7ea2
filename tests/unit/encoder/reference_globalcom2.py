"""GlobalCom2 once more, slowly: token by token, in the manner of its published code, sharing nothing with the service.

Only the two steps whose floating-point rounding is not ours to choose call PyTorch: bilinear resizing and L2
normalisation, each on the plain vectors that the published code passes them.
"""

import math

import torch
from torch.nn import functional

EPSILON = 1e-8


def unpadded(width, height, canvas_width, canvas_height, hugging_face_rounding):
    """Valid rows and columns of the canvas as (top, bottom, left, right)."""

    def cells(length):
        return int(round(length, 7)) if hugging_face_rounding else int(length)

    if width / height > canvas_width / canvas_height:
        padding = (canvas_height - cells(height * (canvas_width / width))) // 2
        return padding, canvas_height - padding, 0, canvas_width
    padding = (canvas_width - cells(width * (canvas_height / height))) // 2
    return 0, canvas_height, padding, canvas_width - padding


def crop_sums(thumbnail, side, rows, columns, combine):
    """What the thumbnail gives each crop; `combine` is "sum" or "max"."""
    step_down, step_right = max(side // rows, 1), max(side // columns, 1)
    collected = [[] for _ in range(rows * columns)]
    for y in range(side):
        for x in range(side):
            crop = min(y // step_down, rows - 1) * columns + min(x // step_right, columns - 1)
            collected[crop].append(float(thumbnail[y * side + x]))
    if combine == "max":
        return [max(values, default=-math.inf) for values in collected]
    totals = []
    for values in collected:
        total = 0.0
        for value in values:
            total += value
        totals.append(total)
    return totals


def retention_ratios(weights, ratio, tau):
    exponentials = [math.exp((weight - max(weights)) / tau) for weight in weights]
    total = 0.0
    for exponential in exponentials:
        total += exponential
    sigmas = [exponential / (total + EPSILON) for exponential in exponentials]
    mean = 0.0
    for sigma in sigmas:
        mean += sigma
    mean /= len(sigmas)
    ratios = []
    for sigma in sigmas:
        r = ratio * (1 + sigma - mean)
        ratios.append(1.0 if r > 1 else r)
    return ratios


def best_first(values):
    return sorted(range(len(values)), key=lambda index: -float(values[index]))


def globalcom2(
    scores,
    *,
    side,
    rows,
    columns,
    width,
    height,
    ratio,
    reference,
    tau=10.0,
    alpha=0.5,
    score="global_local",
    budget="softmax_sum",
):
    """Returns ratios, budgets and kept (tile, row, column) triples of each tile, thumbnail first, in picking order."""
    thumbnail = scores[0]
    cells = side * side
    order = best_first(thumbnail)[: int(cells * ratio)]
    kept = [[(0, index // side, index % side) for index in order]]
    if budget == "uniform":
        ratios = [ratio] * (rows * columns)
    elif budget == "top_k_count":
        chosen = torch.zeros(cells)
        for index in order:
            chosen[index] = 1.0
        ratios = retention_ratios(crop_sums(chosen, side, rows, columns, "sum"), ratio, tau)
    else:
        sums = crop_sums(thumbnail, side, rows, columns, budget.removeprefix("softmax_"))
        ratios = retention_ratios(sums, ratio, tau)
    top, bottom, left, right = unpadded(width, height, columns * side, rows * side, not reference)
    region = None
    if bottom > top and right > left:
        square = thumbnail.reshape(1, 1, side, side)
        region = functional.interpolate(square, size=(bottom - top, right - left), mode="bilinear", align_corners=False)
        region = region[0, 0]
    offset_down = 0
    for crop_row in range(rows):
        offset_right, height_of_first = 0, 0
        for crop_column in range(columns):
            valid = []
            for y in range(side):
                for x in range(side):
                    down, across = crop_row * side + y, crop_column * side + x
                    if top <= down < bottom and left <= across < right:
                        valid.append((y, x))
            crop_height = len({y for y, _ in valid})
            crop_width = len({x for _, x in valid})
            if crop_column == 0:
                height_of_first = crop_height
                if not reference:  # the quirk: a first crop without a valid token does not count its rows
                    height_of_first = max(0, min(bottom, (crop_row + 1) * side) - max(top, crop_row * side))
            crop = crop_row * columns + crop_column
            tile = []
            if valid:
                own = torch.stack([scores[crop + 1][y * side + x] for y, x in valid])
                part = region[offset_down : offset_down + crop_height, offset_right : offset_right + crop_width]
                worth = token_worth(own, part.flatten(), alpha, score)
                tile = [(crop + 1, *valid[index]) for index in best_first(worth)[: int(len(valid) * ratios[crop])]]
            kept.append(tile)
            offset_right += crop_width
        offset_down += height_of_first
    return [ratio, *ratios], [len(tile) for tile in kept], kept


def token_worth(own, seen, alpha, score):
    if score == "local":
        return own
    if score == "global":
        return seen
    return functional.normalize(own, dim=0, eps=1e-12) * alpha + functional.normalize(seen, dim=0, eps=1e-12) * (
        1 - alpha
    )
