"""Questions, answers, captions and their scores."""

import random
from collections import Counter

import pytest

from training.data.batches import BatchConfig, Batches
from training.data.tiles import cut
from training.dialogue.captions import Mention, caption, item_f1, mentions_in, parse_caption
from training.dialogue.held_out import Example, held_out
from training.dialogue.questions import Question, Topic, about_image, ask
from training.dialogue.scoring import score, score_with_places
from training.model.checkpoint import Architecture
from training.scenes.lots import GRIDS
from training.scenes.render import render
from training.scenes.scene import Box, Item, Print, Scene

TILE = 168


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [held_out(number, TILE) for number in range(700)]


def thing(kind: str, x: float, y: float, colour: str | None = None, **prints: str) -> Item:
    """An item of 20 pixels around (x, y) of a scene of 300 x 300."""
    box = Box(x - 10, y - 10, x + 10, y + 10)
    return Item(kind, colour, box, **{name: Print(text, box, 0, 12, "white") for name, text in prints.items()})


CAT = thing("cat", 50, 50)
HEART = thing("heart", 50, 250, "red", price="$7")
SIGN = thing("sign", 250, 150, "blue", reads="OPEN")
SCENE = Scene(300, 300, (SIGN, HEART, CAT), 1.0, "by hand")


def test_a_caption_names_items_row_by_row() -> None:
    said = "A cat at the top left, a blue sign that reads OPEN on the right and a red heart for $7 at the bottom left."
    assert caption(SCENE) == said


def test_captions_parse_back_to_what_is_there(examples: list[Example]) -> None:
    for shown in examples:
        found = parse_caption(caption(shown.scene))
        assert Counter(found) == Counter(mentions_in(shown.scene)), caption(shown.scene)


def test_what_names_no_item_is_passed_over() -> None:
    said = "Well, a cat at the top left of a dragon on the right, some red sky, two dogs at the top and a dog."
    assert parse_caption(said) == [Mention("cat", "", "at the top left")]
    assert parse_caption("") == []


@pytest.mark.parametrize(
    ("said", "items", "with_places"),
    [
        (caption(SCENE), 1.0, 1.0),
        ("A cat at the top.", 2 / 4, 0.0),
        ("A cat at the top left.", 2 / 4, 2 / 4),
        ("A cat at the top left and a cat at the top left.", 2 / 5, 2 / 5),  # the second is one too many
        ("A red heart at the bottom left.", 0.0, 0.0),  # the price is missing
        ("A red heart for $8 at the bottom left.", 0.0, 0.0),
        ("A green heart for $7 at the bottom left.", 0.0, 0.0),
        ("A red heart for $7 at the bottom right and a blue sign that reads OPEN on the right.", 4 / 5, 2 / 5),
        ("Nothing.", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_a_caption_scores_the_f1_of_its_items(said: str, items: float, with_places: float) -> None:
    question = Question(Topic.CAPTION, "Describe the image.", caption(SCENE))
    assert score(SCENE, question, said) == pytest.approx(items)
    assert score_with_places(SCENE, said) == pytest.approx(with_places)


def test_duplicates_count_as_often_as_they_occur() -> None:
    here, there = Mention("dog", "", "at the top"), Mention("dog", "", "on the left")
    assert item_f1([here, there], [here, there], places=True) == 1
    assert item_f1([here, there], [here, here], places=True) == 0.5
    assert item_f1([here, there], [here, here], places=False) == 1
    assert item_f1([here, there], [here], places=False) == pytest.approx(2 / 3)
    assert item_f1([here], [here, here, here], places=False) == 0.5


def test_a_right_answer_scores_one_and_a_wrong_one_nothing(examples: list[Example]) -> None:
    answers: dict[Topic, set[str]] = {topic: set() for topic in Topic}
    for shown in examples:
        for question in shown.questions:
            answers[question.topic].add(question.answer)
    for shown in examples[:100]:
        for question in shown.questions:
            assert score(shown.scene, question, question.answer) == 1
            assert score(shown.scene, question, f" {question.answer.upper()}. ") == 1 or question.topic is Topic.CAPTION
            assert score(shown.scene, question, "") == 0
            wrong = [answer for answer in answers[question.topic] if answer != question.answer]
            worst = max(score(shown.scene, question, answer) for answer in wrong)
            assert worst < 1 if question.topic is Topic.CAPTION else worst == 0


def test_answers_are_true_of_the_scene() -> None:
    lots = random.Random(0)
    asked = {(q.text, q.answer) for topic in Topic for _ in range(300) if (q := ask(SCENE, topic, lots))}
    assert {
        ("What is at the top left?", "a cat"),
        ("What is on the right?", "a blue sign"),
        ("What colour is the heart?", "red"),
        ("Is there a cat?", "yes"),
        ("Is there a red heart?", "yes"),
        ("Where is the sign?", "on the right"),
        ("Where is the red heart?", "at the bottom left"),
        ("How many cats are there?", "1"),
        ("How much is the heart?", "$7"),
        ("What does the sign read?", "OPEN"),
        ("Describe the image.", caption(SCENE)),
    } <= asked
    by_text = Counter(text for text, _ in asked)
    assert set(by_text.values()) == {1}  # one right answer to each
    there = {"a cat", "a heart", "a red heart", "a sign", "a blue sign"}
    for text, answer in asked:
        if text.startswith(("Is there ", "Can you see ")):
            noun = text.removeprefix("Is there ").removeprefix("Can you see ").removesuffix("?")
            assert answer == ("yes" if noun in there else "no"), text


def test_what_cannot_be_told_apart_is_not_asked_about() -> None:
    twins = Scene(300, 300, (thing("cat", 50, 50), thing("cat", 60, 90)), 1.0, "twins")
    lots = random.Random(0)
    for topic in (Topic.WHAT, Topic.COLOUR, Topic.WHERE, Topic.READ):
        assert all(ask(twins, topic, lots) is None for _ in range(20))
    assert {q.answer for _ in range(40) if (q := ask(twins, Topic.COUNT, lots))} == {"2", "0"}


def test_a_question_about_one_of_several_images_says_which() -> None:
    where = Question(Topic.WHERE, "Where is the cat?", "at the top left")
    assert about_image(where, "second").text == "Where is the cat in the second image?"
    read = Question(Topic.READ, "Read the sign.", "OPEN")
    assert about_image(read, "first").text == "Read the sign in the first image."
    described = Question(Topic.CAPTION, "What do you see?", "A cat at the top.")
    assert about_image(described, "first") == Question(Topic.CAPTION, "Describe the first image.", "A cat at the top.")


def test_yes_and_no_are_about_as_frequent(examples: list[Example]) -> None:
    answers = Counter(q.answer for shown in examples for q in shown.questions if q.topic is Topic.EXIST)
    assert set(answers) == {"yes", "no"}
    assert 0.4 < answers["yes"] / answers.total() < 0.6


def test_no_answer_is_the_answer_to_most_questions(examples: list[Example]) -> None:
    for topic in (Topic.WHAT, Topic.COLOUR, Topic.WHERE, Topic.COUNT, Topic.READ):
        answers = Counter(q.answer for shown in examples for q in shown.questions if q.topic is topic)
        assert answers.most_common(1)[0][1] < 0.45 * answers.total(), topic


def test_every_image_gets_a_question_on_most_topics(examples: list[Example]) -> None:
    asked = Counter(question.topic for shown in examples for question in shown.questions)
    assert all(len({q.topic for q in shown.questions}) == len(shown.questions) for shown in examples)
    assert asked[Topic.CAPTION] == asked[Topic.EXIST] == asked[Topic.COUNT] == len(examples)
    assert min(asked[topic] for topic in Topic) > 0.5 * len(examples)


def test_held_out_images_take_the_grids_in_turn() -> None:
    for number in range(20):
        shown = held_out(number, TILE)
        assert shown.number == number
        assert shown == held_out(number, TILE)
        rows, columns = GRIDS[number % len(GRIDS)]
        width, height = shown.scene.width / shown.scene.scale, shown.scene.height / shown.scene.scale
        assert width <= columns * TILE + 1
        assert height <= rows * TILE + 1


# Results are only comparable as long as these stay: a change here is a new held-out set.
GOLDEN: dict[int, tuple[int, int, list[tuple[str, str]]]] = {
    0: (
        289,
        144,
        [
            ("Which thing is at the top left?", "a green sign"),
            ("Which colour is the heart?", "green"),
            ("Is there a black sign?", "no"),
            ("Where is the flower?", "at the top right"),
            ("Count the signs.", "2"),
            ("Read the green sign.", "4DC7"),
            (
                "Caption this image.",
                "A green sign that reads 4DC7 at the top left, a pizza at the top, a green heart at the "
                "top, a flower at the top right and a yellow sign that reads BK on the left.",
            ),
        ],
    ),
    1: (
        137,
        227,
        [
            ("Which thing is on the right?", "a hat"),
            ("Which colour is the sign?", "white"),
            ("Is there a hat?", "yes"),
            ("Where is the sign?", "in the centre"),
            ("How many signs are there?", "1"),
            ("What does the white sign read?", "MILK"),
            (
                "Describe this picture.",
                "A hat for $3.84 at the top left, a hat at the top right, a white sign that reads MILK in "
                "the centre and a hat on the right.",
            ),
        ],
    ),
    234: (
        168,
        504,
        [
            ("What is on the right?", "a drum"),
            ("Which colour is the sign?", "red"),
            ("Can you see a yellow triangle?", "no"),
            ("Where is the drum?", "on the right"),
            ("Count the drums.", "1"),
            ("What does the sign read?", "PARK"),
            (
                "What do you see?",
                "A blue triangle on the left, a red sign that reads PARK in the centre and a drum on the right.",
            ),
        ],
    ),
    599: (
        336,
        311,
        [
            ("Which thing is at the top right?", "a black sign"),
            ("What colour is the square?", "black"),
            ("Is there an umbrella?", "no"),
            ("Where is the black sign?", "at the top right"),
            ("Count the houses.", "1"),
            ("How much is the elephant?", "$92"),
            (
                "Describe this picture.",
                "A black square at the top left, a house for $56 at the top left, a butterfly labelled "
                "PGDN at the top, a lemon at the top, a black sign that reads PUSH at the top right and "
                "an elephant for $92 on the left.",
            ),
        ],
    ),
}


@pytest.mark.parametrize("number", list(GOLDEN))
def test_the_held_out_set_stays_as_it_is(number: int) -> None:
    shown = held_out(number, TILE)
    width, height, questions = GOLDEN[number]
    assert (shown.scene.width, shown.scene.height) == (width, height)
    assert [(question.text, question.answer) for question in shown.questions] == questions


def test_no_scene_is_in_two_splits(tokenizer, architecture: Architecture) -> None:
    """Told by the pixels of the thumbnails, over batches as training draws them."""
    train = Batches(architecture, tokenizer, BatchConfig(tiles=28), 100)
    validation = Batches(architecture, tokenizer, BatchConfig(tiles=28, split="validation"), 100)
    drawn = [
        tiles[0].numpy().tobytes() for batches in (train, validation) for n in range(30) for tiles in batches[n].tiles
    ]
    drawn += [cut(render(held_out(n, architecture.tile).scene), architecture).tiles[0].tobytes() for n in range(100)]
    assert len(drawn) > 400
    assert len(set(drawn)) == len(drawn)
