"""Batches: scenes identified by number, drawn, cut into tiles and asked about on the processor's cores."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from training.data.prompts import Prefix, PromptBuilder, Views
from training.data.tiles import CutImage, best_grid, cut
from training.model.checkpoint import Architecture
from training.scenes.lots import GRIDS, Canvas, draw_scene
from training.scenes.render import character_centres, render
from training.scenes.scene import Scene
from training.scenes.vocabulary import CHARACTERS, COLOURS, KINDS

LABEL, PRICE = len(KINDS), len(KINDS) + 1  # boards under an object, numbered after the kinds
NUM_KINDS = len(KINDS) + 2
_MOST_BOXES = 16
_MOST_CHARACTERS = 64
_KIND = {kind: number for number, kind in enumerate(KINDS)}
_COLOUR = {colour: number for number, colour in enumerate(COLOURS)}
_CHARACTER = {character: number for number, character in enumerate(CHARACTERS)}
_WITHOUT_CROPS = (Views.THUMBNAIL, Views.WORDS)


@dataclass(frozen=True)
class BatchConfig:
    """The composition of batches."""

    tiles: int = 840  # of all images together; divisible by the tiles of every grid
    suffix_tokens: int = 224
    pairs: float = 0.12  # share of batches that show two images in one prompt
    thumbnails_only: float = 0.0  # share of batches that show only thumbnails
    crops_only: float = 0.0  # share of batches that show only crops
    words_only: float = 0.0  # share of batches that describe the images in words; the tower sees their thumbnails
    uneven_positions: float = 0.5  # share of prompts whose vision tokens advance the position unevenly
    shuffled_thumbnails: float = 0.0  # share of images whose thumbnail's tokens come in random order
    split: str = "train"


@dataclass(frozen=True)
class Batch:
    """Images of one grid, as tensors; B images of T tiles each, Q = B or B / 2 sequences."""

    rows: int  # of crops; 0 if no crops are shown
    columns: int
    tiles: torch.Tensor  # [B, T, 3, H, W] uint8
    boxes: torch.Tensor  # [B, M, 4] float32: left, top, right, bottom in pixels of the fitted image
    kinds: torch.Tensor  # [B, M] int64, -1 for none
    colours: torch.Tensor  # [B, M] int64, -1 for none
    characters: torch.Tensor  # [B, C] int64, -1 for none
    centres: torch.Tensor  # [B, C, 2] float32: x, y in pixels of the fitted image
    fitted: torch.Tensor  # [B, 2] float32: width, height of the fitted image, pixels
    offset: torch.Tensor  # [B, 2] float32: left, top of the fitted image on the canvas, pixels
    prefix_ids: torch.Tensor  # [Q, L] int64, padded at the end
    prefix_rows: torch.Tensor  # [Q, L] int64: rows of the sequence's vision tokens, -1 newline, -2 text or padding
    prefix_positions: torch.Tensor  # [Q, L] float32
    prefix_lengths: torch.Tensor  # [Q] int64
    ids: torch.Tensor  # [Q, S] int64; for the rest see `prompts.Suffix`
    labels: torch.Tensor  # [Q, S] int64
    question: torch.Tensor  # [Q, S] int64
    topic: torch.Tensor  # [Q, S] int64
    offsets: torch.Tensor  # [Q, S] int64

    def to(self, device: torch.device) -> "Batch":
        """Copy the batch to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Copy the batch to pinned memory; the data loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {name: change(v) for name, v in values.items() if isinstance(v, torch.Tensor)}
        return dataclasses.replace(self, **changed)


class Batches(Dataset[Batch]):
    """Batch number n, which is always the same."""

    def __init__(
        self, architecture: Architecture, tokenizer: PreTrainedTokenizerBase, config: BatchConfig, count: int
    ) -> None:
        self._architecture = architecture
        self._prompts = PromptBuilder(
            tokenizer,
            config.suffix_tokens,
            uneven_positions=config.uneven_positions,
            shuffled_thumbnails=config.shuffled_thumbnails,
        )
        self._config = config
        self._count = count

    def __len__(self) -> int:
        return self._count

    def scenes(self, number: int) -> tuple[Scene, ...]:
        """Draw the batch's content, one scene per image."""
        return tuple(scene for scene, _ in self._images(self._plan(number)))

    def __getitem__(self, number: int) -> Batch:
        plan = self._plan(number)
        lots, views, shown = plan.lots, plan.views, plan.shown
        scenes, cuts = zip(*self._images(plan), strict=True)
        groups = [slice(i, i + shown) for i in range(0, plan.images, shown)]
        suffixes = [self._prompts.suffix(scenes[group], lots, views) for group in groups]
        if views is Views.WORDS:
            prefixes = [self._prompts.description(scenes[group]) for group in groups]
        else:
            prefixes = [self._prompts.prefix([each.grid for each in cuts[group]], lots, views) for group in groups]
        ids, rows, positions, lengths = self._stacked(prefixes)
        boxes, kinds, colours = _item_tables(scenes, cuts)
        characters, centres = _character_tables(scenes, cuts)
        return Batch(
            rows=plan.rows,
            columns=plan.columns,
            tiles=torch.from_numpy(np.stack([each.tiles[: plan.tiles] for each in cuts])),
            boxes=boxes,
            kinds=kinds,
            colours=colours,
            characters=characters,
            centres=centres,
            fitted=torch.tensor([each.fitted for each in cuts], dtype=torch.float32),
            offset=torch.tensor([each.offset for each in cuts], dtype=torch.float32),
            prefix_ids=ids,
            prefix_rows=rows,
            prefix_positions=positions,
            prefix_lengths=lengths,
            ids=_stack([each.ids for each in suffixes]),
            labels=_stack([each.labels for each in suffixes]),
            question=_stack([each.question for each in suffixes]),
            topic=_stack([each.topic for each in suffixes]),
            offsets=_stack([each.offsets for each in suffixes]),
        )

    def _plan(self, number: int) -> "_Plan":
        config = self._config
        seed = f"{config.split}/{number}"
        lots = random.Random(seed)
        canvas = Canvas(*lots.choice(GRIDS), self._architecture.tile)
        views = _draw_views(lots, config)
        # Without crops the questions are most of the work, so half as many tiles make a batch of equal duration.
        images = config.tiles // (2 if views in _WITHOUT_CROPS else 1 + canvas.rows * canvas.columns)
        shown = 2 if lots.random() < config.pairs else 1
        return _Plan(seed, lots, canvas, views, images - images % shown, shown)

    def _images(self, plan: "_Plan") -> Iterator[tuple[Scene, CutImage]]:
        return (self._image(f"{plan.seed}/{number}", plan.canvas) for number in range(plan.images))

    def _image(self, seed: str, canvas: Canvas) -> tuple[Scene, CutImage]:
        """A scene whose image is cut into the canvas's grid."""
        for attempt in range(20):
            scene = draw_scene(f"{seed}/{attempt}", canvas)
            if best_grid(scene.width, scene.height, self._architecture) == (canvas.rows, canvas.columns):
                return scene, cut(render(scene), self._architecture)
        raise RuntimeError(f"no scene fits a grid of {canvas.rows} x {canvas.columns} crops")

    def _stacked(self, prefixes: list[Prefix]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids, rows of vision tokens and positions, padded to the longest; and their lengths."""
        lengths = torch.tensor([len(prefix.ids) for prefix in prefixes])
        ids = torch.zeros(len(prefixes), int(lengths.max()), dtype=torch.int64)
        rows, positions = torch.full_like(ids, -2), torch.zeros_like(ids, dtype=torch.float32)
        for number, prefix in enumerate(prefixes):
            length = len(prefix.ids)
            ids[number, :length] = torch.from_numpy(prefix.ids)
            positions[number, :length] = torch.from_numpy(prefix.positions)
            shown = torch.from_numpy(prefix.ids == self._prompts.image_id)
            rows[number, :length][shown] = torch.from_numpy(prefix.rows)
        return ids, rows, positions, lengths


@dataclass(frozen=True)
class _Plan:
    """The random choices about a batch that are made before anything is drawn."""

    seed: str
    lots: random.Random  # for the questions and prompts that follow
    canvas: Canvas
    views: Views
    images: int
    shown: int  # images in one prompt

    @property
    def rows(self) -> int:
        return 0 if self.views in _WITHOUT_CROPS else self.canvas.rows

    @property
    def columns(self) -> int:
        return 0 if self.views in _WITHOUT_CROPS else self.canvas.columns

    @property
    def tiles(self) -> int:
        """The value for each image that the tower sees."""
        return 1 + self.rows * self.columns


def _draw_views(lots: random.Random, config: BatchConfig) -> Views:
    shares = {Views.THUMBNAIL: config.thumbnails_only, Views.CROPS: config.crops_only, Views.WORDS: config.words_only}
    bounds = accumulate(shares.values())
    lot = lots.random()
    return next((views for views, bound in zip(shares, bounds, strict=True) if lot < bound), Views.ALL)


def _stack(arrays: list[NDArray[np.int64]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))


def _fit(scene: Scene, cut_image: CutImage) -> tuple[float, float]:
    """The number of the fitted image's pixels per pixel of the scene, across and down."""
    return cut_image.fitted[0] / scene.width, cut_image.fitted[1] / scene.height


def _item_tables(
    scenes: tuple[Scene, ...], cuts: tuple[CutImage, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    boxes = torch.zeros(len(scenes), _MOST_BOXES, 4)
    kinds = torch.full((len(scenes), _MOST_BOXES), -1)
    colours = torch.full((len(scenes), _MOST_BOXES), -1)
    for number, (scene, cut_image) in enumerate(zip(scenes, cuts, strict=True)):
        found = []
        for item in scene.items:
            found.append((item.box, _KIND[item.kind], -1 if item.colour is None else _COLOUR[item.colour]))
            found += [(item.label.box, LABEL, -1)] if item.label is not None else []
            found += [(item.price.box, PRICE, -1)] if item.price is not None else []
        across, down = _fit(scene, cut_image)
        for index, (box, kind, colour) in enumerate(found[:_MOST_BOXES]):
            boxes[number, index] = torch.tensor(
                [box.left * across, box.top * down, box.right * across, box.bottom * down]
            )
            kinds[number, index], colours[number, index] = kind, colour
    return boxes, kinds, colours


def _character_tables(scenes: tuple[Scene, ...], cuts: tuple[CutImage, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    characters = torch.full((len(scenes), _MOST_CHARACTERS), -1)
    centres = torch.zeros(len(scenes), _MOST_CHARACTERS, 2)
    for number, (scene, cut_image) in enumerate(zip(scenes, cuts, strict=True)):
        across, down = _fit(scene, cut_image)
        found = [each for item in scene.items for printed in item.prints for each in character_centres(printed)]
        for index, (character, x, y) in enumerate(found[:_MOST_CHARACTERS]):
            characters[number, index] = _CHARACTER[character]
            centres[number, index] = torch.tensor([x * across, y * down])
    return characters, centres
