"""Draws the held-out images and cuts them into tiles in several processes, ahead of the device."""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import TileGrid, UnpadRule

from training.dialogue.held_out import held_out
from training.scenes.render import render

_AHEAD = 16  # images per process that may be ready or in progress: each takes some megabytes


@dataclass(frozen=True)
class TiledImage:
    """One image, cut into T tiles."""

    number: int  # in the held-out set
    pixels: NDArray[np.uint8]  # [T, 3, H, W]
    grid: TileGrid  # by Hugging Face's padding rule

    def grid_by(self, rule: UnpadRule) -> TileGrid:
        """The same image with its padding computed by another rule."""
        grid = self.grid
        return TileGrid.padded(
            grid.image_height, grid.image_width, rows=grid.rows, columns=grid.columns, side=grid.side, rule=rule
        )


class Studio:
    """Draws and cuts images for one checkpoint."""

    def __init__(self, model: str) -> None:
        self._tiler = PaddedCanvasTiler(Checkpoint(model))

    @property
    def tile_pixels(self) -> int:
        return self._tiler.cutting.tile_pixels

    def image(self, number: int) -> TiledImage:
        image = render(held_out(number, self._tiler.cutting.tile_pixels).scene)
        tiles = self._tiler.cut(image, UnpadRule.HUGGING_FACE)
        return TiledImage(number, tiles.pixels.numpy(), tiles.grid)


def tiled_images(model: str, numbers: Sequence[int], *, workers: int) -> Iterator[TiledImage]:
    """The images with these numbers in order; without workers they are drawn on demand."""
    if not workers:
        studio = Studio(model)
        yield from map(studio.image, numbers)
        return
    # Spawned, since a fork of a process that has used CUDA or OpenMP may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_open_studio, initargs=(model,)) as pool:
        waiting: deque[Future[TiledImage]] = deque()
        try:
            for number in numbers:
                waiting.append(pool.submit(_tiled_image, number))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_studios: list[Studio] = []  # one in each worker process


def _open_studio(model: str) -> None:
    torch.set_num_threads(1)
    _studios.append(Studio(model))


def _tiled_image(number: int) -> TiledImage:
    return _studios[0].image(number)
