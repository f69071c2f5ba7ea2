"""Measures how unevenly a scene's content is distributed over the crops, which the thumbnail's budgets exploit."""

import numpy as np
from numpy.typing import NDArray

from training.scenes.scene import Scene


def fullest_crop(scene: Scene, grid: tuple[int, int]) -> float:
    """The share, 0 to 1, of the drawn area, prints included, that lies in the crop with most of it.

    Args:
        scene: lies in the middle of its canvas, as large as fits, where the image processor puts it.
        grid: rows and columns of crops.
    """
    rows, columns = grid
    per_crop = min(columns / scene.width, rows / scene.height)  # crops to a pixel of the scene
    left, top = (columns - scene.width * per_crop) / 2, (rows - scene.height * per_crop) / 2  # crops
    boxes = [item.footprint for item in scene.items]
    across = _overlaps([(left + box.left * per_crop, left + box.right * per_crop) for box in boxes], columns)
    down = _overlaps([(top + box.top * per_crop, top + box.bottom * per_crop) for box in boxes], rows)
    areas = down.T @ across  # [rows, columns]
    return float(areas.max() / areas.sum())


def _overlaps(spans: list[tuple[float, float]], crops: int) -> NDArray[np.float64]:
    """The length of each span inside each crop of one side, [N, crops]; lengths in crops."""
    starts, ends = np.hsplit(np.array(spans), 2)  # [N, 1] each
    edges = np.arange(crops)
    lengths: NDArray[np.float64] = np.minimum(ends, edges + 1) - np.maximum(starts, edges)  # [N, crops]
    return lengths.clip(min=0)
