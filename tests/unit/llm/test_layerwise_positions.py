"""Original positions of tokens in the spatial layout, and prompts that use them."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from visionsplit.families.llava_next.family import LlavaNext
from visionsplit.families.token_order import NEWLINE, canvas_order, original_offsets, tiles_of
from visionsplit.grid import TileGrid
from visionsplit.options.layout import LAYOUTS, Layout
from visionsplit.options.sampling import ResolvedSampling

from llm_service.engines.base import EngineRequest, ImageInput, ImageRun
from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.engines.layerwise.prompt import read_prompt
from tests.unit.llm.test_layout import IMAGES, SHAPES, kept_positions

IMAGE = 4


def whole_sequence(grid: TileGrid) -> list[tuple[int, int, int] | int]:
    """Every token of an image in order: (tile, row, column), or the canvas row of a newline."""
    sequence: list[tuple[int, int, int] | int] = [(0, y, x) for y in range(grid.side) for x in range(grid.side)]
    for y in range(grid.valid.top, grid.valid.bottom):
        for x in range(grid.valid.left, grid.valid.right):
            sequence.append((1 + y // grid.side * grid.columns + x // grid.side, y % grid.side, x % grid.side))
        sequence.append(y)
    return sequence


@pytest.mark.parametrize("share", [1.0, 0.4, 0.05])
@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_original_places(shape: tuple[int, int], image: tuple[int, int], share: float):
    grid = TileGrid.padded(*image, rows=shape[0], columns=shape[1], side=6)
    positions = kept_positions(grid, share, seed=shape[0] * 5 + image[1])
    kept = {tuple(position) for position in positions.tolist()}
    expected = [place for place, token in enumerate(whole_sequence(grid)) if isinstance(token, int) or token in kept]
    order = canvas_order(grid, positions, "spatial")
    ((offsets, span),) = original_offsets(LlavaNext(), grid, positions, [order])
    assert offsets.tolist() == expected
    assert span == len(whole_sequence(grid))
    if share == 1:
        assert expected == list(range(len(order)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiles(layout: Layout):
    grid = TileGrid.padded(300, 90, rows=2, columns=2, side=4)
    positions = kept_positions(grid, 0.5, seed=2)
    order = canvas_order(grid, positions, layout)
    expected = [positions[row, 0] if row != NEWLINE else -1 for row in order.tolist()]
    assert tiles_of(positions, order).tolist() == expected


@pytest.fixture(scope="module")
def model() -> LayerwiseModel:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    return LayerwiseModel(AutoModelForCausalLM.from_config(config))


def image_input(tiles: list[int], *runs: ImageRun, quotas: tuple[int, ...] | None = None) -> ImageInput:
    rows = torch.randn(len(tiles), 8)
    consecutive = (ImageRun.consecutive(len(tiles)),)
    return ImageInput(b"", runs or consecutive, lambda: rows, np.array(tiles, np.int64), quotas)


def test_two_images_between_text(model: LayerwiseModel):
    first = image_input([0, 1, -1, 2, -1], ImageRun(5, 12, np.array([0, 4, 5, 7, 9])), quotas=(1, 0, 1))
    second = image_input([0, 0, -1])
    request = EngineRequest("", (7, IMAGE, 8, 9, IMAGE, 5, 6), (first, second), ResolvedSampling(1))
    embeddings, layout = read_prompt(request, model, image_token_id=IMAGE)
    rows = [model.embed([7]), first.embed(), model.embed([8, 9]), second.embed(), model.embed([5, 6])]
    assert torch.equal(embeddings, torch.cat(rows))
    assert layout.vision.tolist() == [False] + [True] * 5 + [False] * 2 + [True] * 3 + [False] * 2
    assert layout.tiles.tolist() == [-1, 0, 1, -1, 2, -1, -1, -1, 3, 3, -1, -1, -1]
    assert layout.positions.tolist() == [0, 1, 5, 6, 8, 10, 13, 14, 15, 16, 17, 18, 19]
    assert layout.quotas is not None
    assert layout.quotas.tolist() == [1, 0, 1, 2]  # an image without quotas keeps what it has
    assert request.num_prompt_tokens == 13
    assert request.num_positions == 20


def test_images_alone_and_side_by_side(model: LayerwiseModel):
    images = (image_input([0, -1]), image_input([0, 0]))
    embeddings, layout = read_prompt(
        EngineRequest("", (IMAGE, IMAGE), images, ResolvedSampling(1)), model, image_token_id=IMAGE
    )
    assert torch.equal(embeddings, torch.cat([image.embed() for image in images]))
    assert layout.vision.tolist() == [True, True, True, False]  # the answer starts from the last
    assert layout.tiles.tolist() == [0, -1, 1, -1]
    assert layout.quotas is None


def test_an_image_of_several_runs_with_text_between_them(model: LayerwiseModel):
    """As of models that mark each tile. A run may have lost all its tokens; quotas are the image's."""
    runs = (ImageRun(2, 4, np.array([1, 3])), ImageRun(0, 4, np.array([], np.int64)), ImageRun(1, 4, np.array([2])))
    image = image_input([1, 1, 0], *runs, quotas=(1, 1, 0))
    request = EngineRequest("", (7, IMAGE, 8, IMAGE, 9, IMAGE, 5), (image,), ResolvedSampling(1))
    embeddings, layout = read_prompt(request, model, image_token_id=IMAGE)
    rows = image.embed()
    assert torch.equal(
        embeddings, torch.cat([model.embed([7]), rows[:2], model.embed([8, 9]), rows[2:], model.embed([5])])
    )
    assert layout.tiles.tolist() == [-1, 1, 1, -1, -1, 0, -1]
    assert layout.positions.tolist() == [0, 2, 4, 5, 10, 13, 15]
    assert layout.quotas is not None
    assert layout.quotas.tolist() == [1, 1, 0]
    assert request.num_prompt_tokens == 7
    assert request.num_positions == 16
