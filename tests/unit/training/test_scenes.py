"""Scenes drawn from seeds."""

import itertools

import numpy as np
import pytest

from training.data.tiles import best_grid
from training.model.checkpoint import Architecture
from training.scenes.lots import FONT_SIZES, GRIDS, OBJECT_SIZES, Canvas, draw_scene
from training.scenes.render import character_centres, render
from training.scenes.scene import Box, Print, Scene
from training.scenes.sprites import FONTS, SPRITE_SIDE, emoji, shape
from training.scenes.vocabulary import (
    CHARACTERS,
    CODE_CHARACTERS,
    COLOURS,
    EMOJI,
    KINDS,
    SHAPES,
    WORDS,
    plural,
    with_article,
)

TILE = 168
CANVASES = [Canvas(rows, columns, TILE) for rows, columns in GRIDS]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(f"test/{number}", CANVASES[number % len(CANVASES)]) for number in range(420)]


@pytest.mark.parametrize("canvas", CANVASES)
def test_a_seed_always_gives_the_same_scene_and_pixels(canvas: Canvas) -> None:
    scene, again, other = draw_scene("one", canvas), draw_scene("one", canvas), draw_scene("two", canvas)
    assert scene == again
    assert np.array_equal(np.asarray(render(scene)), np.asarray(render(again)))
    assert scene.items != other.items


def test_pixels_fill_the_scene(scenes: list[Scene]) -> None:
    for scene in scenes[:21]:
        image = render(scene)
        assert image.mode == "RGB"
        assert image.size == (scene.width, scene.height)


def test_every_item_is_seen(scenes: list[Scene]) -> None:
    """Where an item lies, leaving it out changes the pixels."""
    for scene in scenes[:21]:
        whole = np.asarray(render(scene)).astype(int)
        for left_out in scene.items:
            items = tuple(item for item in scene.items if item is not left_out)
            others = Scene(scene.width, scene.height, items, scene.scale, scene.seed)
            box = left_out.footprint
            part = np.s_[int(box.top) : int(box.bottom) + 1, int(box.left) : int(box.right) + 1]
            changed = np.abs(whole - np.asarray(render(others)))[part].max(axis=2) > 20
            assert changed.mean() > 0.1, left_out


def test_items_lie_inside_the_image_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.items
        for item in scene.items:
            box = item.footprint
            assert box.left >= 0
            assert box.top >= 0
            assert box.right <= scene.width
            assert box.bottom <= scene.height
        for one, other in itertools.combinations(scene.items, 2):
            assert not one.footprint.overlaps(other.footprint, 0), scene.seed


def test_no_centre_leaves_open_which_third_it_is_in(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.items:
            x, y = item.box.centre
            for line in (1 / 3, 2 / 3):
                assert abs(x / scene.width - line) > 0.02
                assert abs(y / scene.height - line) > 0.02


def test_the_image_processor_chooses_every_grid_and_mostly_the_one_meant(scenes: list[Scene]) -> None:
    chosen = [best_grid(scene.width, scene.height, Architecture()) for scene in scenes]
    assert set(chosen) == set(GRIDS)
    meant = sum(grid == GRIDS[number % len(GRIDS)] for number, grid in enumerate(chosen))
    assert meant > 0.9 * len(scenes)


def test_sizes_are_those_of_the_fitted_image(scenes: list[Scene]) -> None:
    prints = [(scene, printed) for scene in scenes for item in scene.items for printed in item.prints]
    sizes = [printed.size / scene.scale for scene, printed in prints]
    assert FONT_SIZES[0] - 1e-6 <= min(sizes) < FONT_SIZES[0] + 0.2
    assert FONT_SIZES[1] - 0.2 < max(sizes) <= FONT_SIZES[1] + 1e-6
    for scene in scenes:
        for item in scene.items:
            if not item.is_sign:
                assert OBJECT_SIZES[0] - 1e-6 <= item.box.width / scene.scale <= OBJECT_SIZES[1] + 1e-6
                assert item.box.width == pytest.approx(item.box.height)


def test_characters_lie_on_their_board_in_order(scenes: list[Scene]) -> None:
    for scene in scenes:
        for item in scene.items:
            for printed in item.prints:
                centres = character_centres(printed)
                across = [x for _, x, _ in centres]
                assert "".join(character for character, _, _ in centres) == printed.text
                assert across == sorted(set(across))
                assert all(printed.box.left < x < printed.box.right for x in across)
                assert all(printed.box.top < y < printed.box.bottom for _, _, y in centres)


def test_a_characters_centre_is_its_middle() -> None:
    """Of equal characters on a board the centres lie evenly around the board's."""
    for font in range(len(FONTS)):
        centres = character_centres(Print("WWW", Box(10, 20, 70, 38), font, 12.0, "white"))
        across = [x for _, x, _ in centres]
        assert across[1] == pytest.approx(40)
        assert across[1] - across[0] == pytest.approx(across[2] - across[1])
        assert 8 < across[1] - across[0] < 14
        assert {y for _, _, y in centres} == {29}


def test_scenes_hold_all_that_they_can(scenes: list[Scene]) -> None:
    items = [item for scene in scenes for item in scene.items]
    assert {item.kind for item in items} == set(KINDS)
    assert {item.colour for item in items if item.kind not in EMOJI} == set(COLOURS)
    assert {item.colour for item in items if item.kind in EMOJI} == {None}
    assert {scene.place(item) for scene in scenes for item in scene.items} == {
        *("at the top left", "at the top", "at the top right"),
        *("on the left", "in the centre", "on the right"),
        *("at the bottom left", "at the bottom", "at the bottom right"),
    }
    texts = {item.reads.text for item in items if item.reads}
    assert texts & set(WORDS)
    codes = texts - set(WORDS) | {item.label.text for item in items if item.label}
    assert {len(code) for code in codes} == {2, 3, 4}
    assert set("".join(codes)) <= set(CODE_CHARACTERS)
    assert all(item.price.text.startswith("$") for item in items if item.price)
    assert all(item.is_sign == (item.reads is not None) for item in items)


def test_signs_of_one_image_differ_in_colour(scenes: list[Scene]) -> None:
    for scene in scenes:
        signs = [item.colour for item in scene.items if item.is_sign]
        assert len(signs) == len(set(signs))


def test_every_kind_has_a_sprite() -> None:
    sprites = [emoji(kind) for kind in EMOJI] + [shape(kind) for kind in SHAPES]
    assert all(sprite.size == (SPRITE_SIDE, SPRITE_SIDE) for sprite in sprites)
    assert all(sprite.getbbox() for sprite in sprites)
    assert len({sprite.tobytes() for sprite in sprites}) == len(sprites)
    with pytest.raises(ValueError, match="octagon"):
        shape("octagon")


def test_what_is_printed_is_made_of_known_characters() -> None:
    assert set(CODE_CHARACTERS) < set(CHARACTERS)
    assert set("".join(WORDS)) < set(CHARACTERS)
    assert not set(CODE_CHARACTERS) & set("IOQSZ01258")  # each looks like another


@pytest.mark.parametrize(
    ("kind", "article", "several"),
    [
        ("apple", "an apple", "apples"),
        ("butterfly", "a butterfly", "butterflies"),
        ("cross", "a cross", "crosses"),
        ("fish", "a fish", "fish"),
        ("grapes", "some grapes", "grapes"),
        ("strawberry", "a strawberry", "strawberries"),
        ("watermelon", "a watermelon", "watermelons"),
    ],
)
def test_nouns(kind: str, article: str, several: str) -> None:
    assert with_article(kind) == article
    assert plural(kind) == several
