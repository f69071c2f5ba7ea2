"""Tiles, prompts and batches, held against Hugging Face's processor."""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers import LlavaNextProcessor, PreTrainedTokenizerFast
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from visionsplit.grid import TileGrid

from tests.noise import noise_image
from training.data.batches import Batch, BatchConfig, Batches
from training.data.prompts import (
    IGNORED,
    NEWLINE,
    TOPICS,
    PromptBuilder,
    Suffix,
    Views,
    single_view_order,
    uncompressed_order,
)
from training.data.tiles import cut
from training.dialogue.captions import caption
from training.dialogue.questions import Topic
from training.model.checkpoint import Architecture, image_processor
from training.scenes.lots import GRIDS, Canvas, draw_scene
from training.scenes.render import character_centres, render
from training.scenes.scene import Scene
from training.scenes.vocabulary import CHARACTERS

SIZES = [
    *[(112, 56), (56, 112), (112, 112), (168, 56), (56, 168), (168, 112), (112, 168)],  # every canvas itself
    *[(113, 97), (57, 201), (333, 77), (640, 480), (111, 224), (400, 399), (123, 45), (31, 29)],
    *[(100, 10), (10, 100), (1, 1), (2, 3), (56, 56), (55, 57), (170, 113), (900, 30)],
]


def normalised(tiles: np.ndarray, processor: LlavaNextImageProcessorPil) -> np.ndarray:
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (processor.image_mean, processor.image_std))
    return (tiles.astype(np.float32) / 255 - mean) / std


@pytest.mark.parametrize("tile", [56, 168])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_tiles_are_the_image_processors(width: int, height: int, tile: int) -> None:
    architecture = Architecture(tile=tile)
    image, processor = noise_image(width, height), image_processor(architecture)
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    ours = cut(image, architecture)
    assert ours.tiles.dtype == np.uint8
    assert ours.tiles.shape == theirs.shape
    assert np.abs(normalised(ours.tiles, processor) - theirs).max() < 1e-5


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_image_lies_where_it_is_said_to(width: int, height: int) -> None:
    """A white image leaves exactly its own part of the canvas not black."""
    architecture = Architecture(tile=56)
    image = noise_image(width, height)
    image.paste("white", (0, 0, width, height))
    made = cut(image, architecture)
    assert made.grid == TileGrid.padded(height, width, rows=made.grid.rows, columns=made.grid.columns, side=4)
    assert len(made.tiles) == made.grid.num_tiles
    crops = made.tiles[1:].reshape(made.grid.rows, made.grid.columns, 3, 56, 56)
    canvas = crops.transpose(0, 3, 1, 4, 2).reshape(made.grid.rows * 56, made.grid.columns * 56, 3)
    expected = np.zeros_like(canvas)
    (left, top), (across, down) = made.offset, made.fitted
    expected[top : top + down, left : left + across] = 255
    assert np.array_equal(canvas, expected)
    assert (made.tiles[0] == 255).all()


# --- prompts


def scenes_of(rows: int, columns: int, count: int) -> list[Scene]:
    return [draw_scene(f"prompts/{rows}/{columns}/{n}", Canvas(rows, columns, 56)) for n in range(count)]


def builder(tokenizer: PreTrainedTokenizerFast, **shares: float) -> PromptBuilder:
    return PromptBuilder(tokenizer, 200, **{"uneven_positions": 0.0, "shuffled_thumbnails": 0.0, **shares})


def questions_in(suffix: Suffix) -> list[np.ndarray]:
    """The ids of each question with its answer."""
    return [suffix.ids[suffix.question == number] for number in range(int(suffix.question.max()) + 1)]


@pytest.mark.parametrize("shown", [1, 2])
@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_prompts_are_the_processors(
    tokenizer: PreTrainedTokenizerFast,
    processor: LlavaNextProcessor,
    architecture: Architecture,
    rows: int,
    columns: int,
    shown: int,
) -> None:
    scenes = scenes_of(rows, columns, shown)
    images = [render(scene) for scene in scenes]
    prompts = builder(tokenizer)
    prefix = prompts.prefix([cut(image, architecture).grid for image in images], random.Random(0))
    suffix = prompts.suffix(scenes, random.Random(0))
    assert len(questions_in(suffix)) > 3
    for ids in questions_in(suffix):
        asked, answer = tokenizer.decode(ids).removeprefix("\n").split(" ASSISTANT:")
        content = [{"type": "image"}] * shown + [{"type": "text", "text": asked}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        theirs = processor(images=images, text=prompt + answer, return_tensors="np")["input_ids"][0]
        assert np.concatenate([prefix.ids, ids]).tolist() == theirs.tolist()
    assert prefix.positions.tolist() == list(range(len(prefix.ids)))


def test_only_answers_are_learnt(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        suffix = builder(tokenizer).suffix(scenes_of(2, 3, 1), random.Random(seed))
        assert suffix.ids.shape == suffix.labels.shape == suffix.question.shape == suffix.offsets.shape == (200,)
        for number, ids in enumerate(questions_in(suffix)):
            labels = suffix.labels[suffix.question == number]
            _, answer = tokenizer.decode(ids).split(" ASSISTANT: ")
            learnt = labels[labels != IGNORED]
            assert tokenizer.decode(learnt) == answer
            assert learnt[-1] == tokenizer.eos_token_id
            assert labels[-1] == IGNORED  # behind the end comes nothing
            assert (labels[:-1] == ids[1:])[labels[:-1] != IGNORED].all()
            assert suffix.offsets[suffix.question == number].tolist() == list(range(len(ids)))
            assert len(set(suffix.topic[suffix.question == number])) == 1
        padding = suffix.question < 0
        assert (suffix.ids[padding] == tokenizer.pad_token_id).all()
        assert (suffix.labels[padding] == IGNORED).all()
        assert (suffix.topic[padding] == -1).all()


def test_no_question_is_asked_twice(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(20):
        suffix = builder(tokenizer).suffix(scenes_of(1, 2, 2), random.Random(seed))
        texts = [tokenizer.decode(ids).split(" ASSISTANT:")[0] for ids in questions_in(suffix)]
        assert len(set(texts)) == len(texts)
        assert all("first image" in text or "second image" in text for text in texts)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (Views.ALL, set(Topic)),
        (Views.THUMBNAIL, {Topic.WHAT, Topic.COLOUR, Topic.EXIST, Topic.WHERE, Topic.COUNT}),
        (Views.CROPS, {Topic.COLOUR, Topic.EXIST, Topic.COUNT, Topic.READ}),
        (Views.WORDS, set(Topic)),
    ],
)
def test_only_what_the_views_can_answer_is_asked(
    tokenizer: PreTrainedTokenizerFast, views: Views, expected: set[Topic]
) -> None:
    topics = set()
    for seed in range(60):
        suffix = builder(tokenizer).suffix(scenes_of(2, 2, 1), random.Random(seed), views)
        topics |= {TOPICS[number] for number in suffix.topic[suffix.topic >= 0]}
    assert topics == expected


def test_crops_alone_are_shown_without_the_thumbnail(tokenizer: PreTrainedTokenizerFast) -> None:
    grids = [grid_of(2, 2)] * 2
    whole = builder(tokenizer).prefix(grids, random.Random(1))
    crops = builder(tokenizer, shuffled_thumbnails=1.0).prefix(grids, random.Random(1), Views.CROPS)
    each = len(whole.rows) // 2
    assert crops.rows.tolist() == [*whole.rows[16:each], *whole.rows[each + 16 :]]
    assert (crops.ids == crops.ids[-1]).sum() == len(crops.rows)


def test_words_stand_where_the_images_would(tokenizer: PreTrainedTokenizerFast) -> None:
    scenes = scenes_of(1, 2, 2)
    prompts = builder(tokenizer, uneven_positions=1.0)
    prefix = prompts.description(scenes)
    assert tokenizer.decode(prefix.ids) == "<s>USER: " + "\n".join(caption(scene) for scene in scenes)
    assert not len(prefix.rows)
    assert prefix.positions.tolist() == list(range(len(prefix.ids)))


def grid_of(rows: int, columns: int) -> TileGrid:
    return TileGrid.padded(rows * 56, columns * 56, rows=rows, columns=columns, side=4)


def test_shuffling_permutes_the_thumbnail_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    grids = [grid_of(2, 2)] * 2
    plain = builder(tokenizer).prefix(grids, random.Random(1))
    shuffled = builder(tokenizer, shuffled_thumbnails=1.0).prefix(grids, random.Random(1))
    assert plain.ids.tolist() == shuffled.ids.tolist()
    assert plain.positions.tolist() == shuffled.positions.tolist()
    each = len(plain.rows) // 2
    thumbnails = [slice(0, 16), slice(each, each + 16)]
    for thumbnail in thumbnails:
        assert plain.rows[thumbnail].tolist() == sorted(shuffled.rows[thumbnail]) != shuffled.rows[thumbnail].tolist()
    others = np.ones(len(plain.rows), bool)
    for thumbnail in thumbnails:
        others[thumbnail] = False
    assert plain.rows[others].tolist() == shuffled.rows[others].tolist()


def test_uneven_positions_grow_and_leave_text_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = builder(tokenizer, uneven_positions=1.0)
    lengths = set()
    for seed in range(20):
        prefix = prompts.prefix([grid_of(2, 2)], random.Random(seed))
        steps = np.diff(prefix.positions)
        vision = prefix.ids[1:] == prompts.image_id
        assert (steps >= 0).all()
        assert np.allclose(steps[~vision], 1, atol=1e-4)
        assert steps[vision].mean() < 1.1
        lengths.add(float(prefix.positions[-1]))
    assert len(lengths) == 20


def test_the_order_of_tokens() -> None:
    """2 x 2 crops of 2 x 2 cells, of which the image fills the two middle rows: each row goes through two crops."""
    grid = TileGrid.padded(200, 400, rows=2, columns=2, side=2)
    rows = [[6, 7, 10, 11, NEWLINE], [12, 13, 16, 17, NEWLINE]]
    assert uncompressed_order(grid).tolist() == [0, 1, 2, 3, *rows[0], *rows[1]]
    assert single_view_order(grid).tolist() == [0, 1, 2, 3, NEWLINE]


# --- batches


def values(batch: Batch) -> list[object]:
    found = (getattr(batch, field.name) for field in dataclasses.fields(batch))
    return [value.tolist() if isinstance(value, torch.Tensor) else value for value in found]


@pytest.fixture(scope="module")
def config() -> BatchConfig:
    return BatchConfig(tiles=28, pairs=0.5, thumbnails_only=0.3, crops_only=0.2, shuffled_thumbnails=0.5)


def test_a_number_always_gives_the_same_batch(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, config: BatchConfig
) -> None:
    batches, again = (Batches(architecture, tokenizer, config, count) for count in (10, 1000))
    assert (len(batches), len(again)) == (10, 1000)
    for number in range(6):
        assert values(batches[number]) == values(again[number])
    assert values(batches[0]) != values(batches[1])
    other = Batches(architecture, tokenizer, dataclasses.replace(config, split="validation"), 10)
    assert values(batches[0]) != values(other[0])


def test_batches_come_in_every_shape(
    architecture: Architecture, tokenizer: PreTrainedTokenizerFast, config: BatchConfig
) -> None:
    batches = Batches(architecture, tokenizer, config, 100)
    shapes = set()
    for number in range(80):
        batch = batches[number]
        images, tiles = batch.tiles.shape[:2]
        assert tiles == 1 + batch.rows * batch.columns
        assert images * tiles <= 28
        assert images % len(batch.ids) == 0
        assert batch.tiles.shape[2:] == (3, 56, 56)
        assert batch.tiles.dtype == torch.uint8
        shapes.add((batch.rows, batch.columns, images // len(batch.ids)))
    assert shapes == {(*grid, shown) for grid in [*GRIDS, (0, 0)] for shown in (1, 2)}


def test_each_kind_of_batch_has_its_share(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
    shares = {Views.THUMBNAIL: 0.3, Views.CROPS: 0.2, Views.WORDS: 0.1, Views.ALL: 0.4}
    config = BatchConfig(tiles=14, thumbnails_only=0.3, crops_only=0.2, words_only=0.1)
    batches = Batches(architecture, tokenizer, config, 300)
    seen = Counter(views_of(batches[number]) for number in range(300))
    for views, share in shares.items():
        assert abs(seen[views] / 300 - share) < 0.1, views


def views_of(batch: Batch) -> Views:
    """What a batch shows, by the number of vision tokens in its first prompt."""
    shown = len(batch.tiles) // len(batch.ids)
    vision = int((batch.prefix_rows[0] >= 0).sum()) // shown
    if not batch.rows:
        return Views.THUMBNAIL if vision else Views.WORDS
    first = int(batch.prefix_rows[0][batch.prefix_rows[0] >= 0].min())
    return Views.ALL if first < batch.tiles.shape[3] ** 2 // 14**2 else Views.CROPS


def test_tables_say_what_the_scenes_say(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
    batches = Batches(architecture, tokenizer, BatchConfig(tiles=28), 100)
    for number in range(6):
        batch, scenes = batches[number], batches.scenes(number)
        assert len(scenes) == len(batch.tiles)
        for scene, *tables in zip(
            scenes, batch.boxes, batch.kinds, batch.characters, batch.centres, batch.fitted, batch.offset, strict=True
        ):
            check_tables(scene, tables, architecture)


def check_tables(scene: Scene, tables: Sequence[torch.Tensor], architecture: Architecture) -> None:
    boxes, kinds, characters, centres, fitted, offset = tables
    made = cut(render(scene), architecture)
    assert (tuple(fitted.tolist()), tuple(offset.tolist())) == (made.fitted, made.offset)
    assert int((kinds >= 0).sum()) == sum(1 + (not item.is_sign) * len(item.prints) for item in scene.items)
    printed = [printed for item in scene.items for printed in item.prints]
    assert "".join(CHARACTERS[n] for n in characters if n >= 0) == "".join(each.text for each in printed)
    assert (boxes[kinds >= 0][:, 2:] > boxes[kinds >= 0][:, :2]).all()
    # Everything in shares of the image is as in the scene.
    first = torch.tensor(dataclasses.astuple(scene.items[0].box)) / torch.tensor([scene.width, scene.height] * 2)
    assert torch.allclose(boxes[0] / fitted.repeat(2), first, atol=1e-5)
    places = [(x / scene.width, y / scene.height) for each in printed for _, x, y in character_centres(each)]
    assert torch.allclose(centres[: len(places)] / fitted, torch.tensor(places).reshape(-1, 2), atol=1e-5)


def test_a_batch_changes_device_whole(architecture: Architecture, tokenizer: PreTrainedTokenizerFast) -> None:
    batch = Batches(architecture, tokenizer, BatchConfig(tiles=28), 1)[0]
    moved = batch.to(torch.device("meta"))
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) > 10
    assert all(tensor.is_meta for tensor in tensors)
    assert (moved.rows, moved.columns) == (batch.rows, batch.columns)
