"""The evaluation's computations from answers: conditions, scores, intervals, tables; and its decoder."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.options.compression import Compression
from visionsplit.options.prefill import Pruning

from encoder_service.compression import METHODS, compose
from llm_service.replica.text_model import load_text_model
from training.dialogue.held_out import held_out
from training.dialogue.questions import Question, Topic
from training.evaluation.__main__ import main
from training.evaluation.conditions import DEFAULT, of_known_methods, parse_condition
from training.evaluation.crowding import fullest_crop
from training.evaluation.decoding import EmbeddedImage, GreedyDecoder, SharedPrompts
from training.evaluation.results import Answer, Run, Seen
from training.evaluation.statistics import Bootstrap, Tally, interval, ratio
from training.evaluation.summary import AVERAGE, CAPTION, CAPTION_WITH_PLACES, METRICS, as_plain, summarise
from training.evaluation.tables import report
from training.scenes.scene import Box, Item, Print, Scene

# --- conditions


def test_a_condition_names_a_method_with_its_settings() -> None:
    assert parse_condition("none").spec == Compression("none")
    assert parse_condition("globalcom2@0.25").spec == Compression("globalcom2", 0.25)
    text = "globalcom2:score=local,budget=uniform,selection=top_k,layout=reference,tau=3@0.1"
    assert parse_condition(text).spec == Compression(
        "globalcom2", 0.1, "reference", "local", "uniform", "top_k", parameters={"tau": 3.0}
    )
    assert parse_condition("thumbnail").spec is None
    assert parse_condition("prumerge+:step=2@0.1").spec == Compression("prumerge+", 0.1, parameters={"step": 2.0})


def test_a_condition_names_what_the_language_model_does() -> None:
    both = parse_condition("prumerge+@0.5+fastv:layer=2@0.1")
    assert both.spec == Compression("prumerge+", 0.5)
    assert both.pruning == Pruning("fastv", 0.1, {"layer": 2.0})
    assert both.position_ids == "renumbered"
    quotas = parse_condition("globalcom2:quotas=only@0.1+fastv")
    assert quotas.spec == Compression("globalcom2", 0.1, quotas_only=True)
    assert quotas.pruning == Pruning("fastv")
    assert parse_condition("globalcom2:positions=original@0.1").position_ids == "original"


@pytest.mark.parametrize(
    "text",
    [
        "globalcom2@much",
        "globalcom2@",
        "globalcom2:tau=big@0.1",
        "globalcom2:local@0.1",
        "none:layout=odd",
        "",
        "globalcom2:quotas=only@0.1",
        "none:positions=odd",
        ":tau=5@0.1",
        "globalcom2:=5@0.1",
        "none+fastv:layer=first@0.1",
    ],
)
def test_a_condition_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        parse_condition(text)


def test_the_usual_conditions_are_ones_that_exist() -> None:
    conditions = [parse_condition(text) for text in of_known_methods(DEFAULT, METHODS)]
    for condition in conditions:
        assert condition.spec is None or compose(condition.spec)
    assert {"none", "globalcom2", "thumbnail"} <= {condition.method for condition in conditions}
    assert of_known_methods(DEFAULT, ["none"]) == ["none", "thumbnail"]


# --- statistics


def test_the_value_is_the_mean_over_questions() -> None:
    sums = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]])
    counts = np.array([[1.0, 0.0], [4.0, 0.0], [1.0, 0.0]])
    means = Bootstrap(3).means(Tally(sums, counts))
    assert means[0, 0] == pytest.approx(4 / 6)
    assert math.isnan(interval(means[:, 1]).value)
    assert math.isnan(interval(means[:, 1]).low)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Questions of one image share its difficulty: drawing single questions would cover far too seldom."""
    lots = np.random.default_rng(7)
    covered = naive = 0
    rounds, images, questions = 300, 120, 6
    bootstrap = Bootstrap(images, resamples=600, seed=3)
    single = Bootstrap(images * questions, resamples=600, seed=3)
    for _ in range(rounds):
        chances = lots.beta(0.6, 0.4, size=images)  # of a right answer, 0.6 in the mean
        right = (lots.random((images, questions)) < chances[:, None]).astype(float)
        counts = np.full((images, 1), float(questions))
        found = interval(bootstrap.means(Tally(right.sum(axis=1, keepdims=True), counts))[:, 0])
        covered += found.low <= 0.6 <= found.high
        each = right.reshape(-1, 1)
        wrong = interval(single.means(Tally(each, np.ones_like(each)))[:, 0])
        naive += wrong.low <= 0.6 <= wrong.high
    assert 0.91 <= covered / rounds <= 0.985
    assert naive / rounds < 0.85


def test_what_two_conditions_share_cancels() -> None:
    lots = np.random.default_rng(5)
    hard = lots.random((200, 1))
    counts = np.ones((200, 1))
    bootstrap = Bootstrap(200)
    all_tokens, fewer = (bootstrap.means(Tally(hard * factor, counts))[:, 0] for factor in (1.0, 0.8))
    kept = interval(ratio(fewer, all_tokens))
    assert kept.value == pytest.approx(0.8)
    assert kept.high - kept.low < 1e-9
    alone = interval(fewer)
    difference = interval(fewer - all_tokens)
    assert difference.value == pytest.approx(-0.2 * hard.mean())
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)


def test_the_same_draws_every_time() -> None:
    tally = Tally(np.arange(20.0)[:, None], np.ones((20, 1)))
    assert interval(Bootstrap(20).means(tally)[:, 0]) == interval(Bootstrap(20).means(tally)[:, 0])
    assert interval(Bootstrap(20).means(tally)[:, 0]) != interval(Bootstrap(20, seed=1).means(tally)[:, 0])


def test_a_share_of_nothing_is_not_a_number() -> None:
    assert math.isnan(interval(ratio(np.ones(5), np.zeros(5))).value)


# --- summary


def answered(
    condition: str, image: int, topic: Topic, score: float, *, places: float | None = None, tokens: int = 100
) -> Answer:
    grid = (1, 2) if image % 2 else (2, 2)
    crowded = 0.9 if image < 2 else 0.5
    return Answer(condition, image, grid, crowded, tokens, float(tokens), topic, "Which?", "yes", "no", score, places)


def small_run() -> Run:
    answers = []
    for image in range(6):
        for condition, tokens, share in (("none", 100 + image, 1.0), ("globalcom2@0.1", 10, 0.5)):
            answers += [
                answered(condition, image, Topic.WHAT, share * (image % 3 > 0), tokens=tokens),
                answered(condition, image, Topic.CAPTION, share * 0.8, places=share * 0.4, tokens=tokens),
            ]
    return Run({"model": "tiny", "seconds": 1.5, "nothing": None}, ("none", "globalcom2@0.1"), tuple(answers))


def test_scores_by_topic_and_their_average() -> None:
    summary = summarise(small_run(), against=["globalcom2@0.1"])
    assert (summary.images, summary.questions) == (6, 12)
    full, tenth = summary.conditions
    assert (full.vision_tokens, tenth.vision_tokens) == (102.5, 10)
    assert full.scores["what"].value == pytest.approx(4 / 6)
    assert full.scores["what"].low < 4 / 6 < full.scores["what"].high
    assert full.scores[CAPTION].value == pytest.approx(0.8)
    assert full.scores[CAPTION_WITH_PLACES].value == pytest.approx(0.4)
    assert math.isnan(full.scores["read"].value)  # nothing was asked about it, so it does not count in the average
    assert full.scores[AVERAGE].value == pytest.approx((4 / 6 + 0.8) / 2)
    assert tenth.retained is not None
    assert tenth.retained.value == pytest.approx(0.5)
    assert tenth.retained.high == pytest.approx(0.5)
    (difference,) = summary.differences
    assert (difference.condition, difference.against) == ("none", "globalcom2@0.1")
    assert difference.scores[CAPTION].value == pytest.approx(0.4)
    assert [(grid.rows, grid.columns, grid.images) for grid in summary.grids] == [(1, 2, 3), (2, 2, 3)]
    assert as_plain(summary)["conditions"][0]["scores"]["read"] == {"value": None, "low": None, "high": None}


def test_without_the_uncompressed_run_nothing_is_retained() -> None:
    run = small_run()
    tenth = tuple(answer for answer in run.answers if answer.condition != "none")
    summary = summarise(replace(run, conditions=("globalcom2@0.1",), answers=tenth))
    assert summary.conditions[0].retained is None
    assert summary.grids == ()
    assert "| globalcom2@0.1 | 10 | 10 | – | 36.7" in report(summary)


def test_a_run_is_only_compared_with_its_own_conditions() -> None:
    with pytest.raises(ValueError, match=r"has no condition 'random@0\.1'"):
        summarise(small_run(), against=["random@0.1"])
    with pytest.raises(ValueError, match="no answers"):
        summarise(replace(small_run(), answers=()))


def test_the_report_has_a_table_for_each_question() -> None:
    text = report(summarise(small_run(), against=["none"]))
    lines = text.splitlines()
    assert text.endswith("|\n")
    assert "model tiny, seconds 1.5." in lines
    assert any(line.startswith("| none | 102 | 102 | 66.7 (") for line in lines)
    assert any(line.startswith("| globalcom2@0.1 | 10 | 10 | 9.8 | 36.7 (") for line in lines)
    assert any("| 50.0 (50.0 to 50.0) |" in line for line in lines)
    assert "### Difference to none, percentage points, paired" in lines
    assert any(line.startswith("| globalcom2@0.1 | -33.3 (") and "| – |" in line for line in lines)
    assert any(line.startswith("| 1 x 2 | 3 | 103 |") for line in lines)
    tables = [line.count("|") for line in lines if line.startswith("| ")]
    assert set(tables) == {7, len(METRICS) + 3, len(METRICS) + 5}


# --- results


def test_answers_are_scored_and_kept(tmp_path: Path) -> None:
    example = held_out(3, 168)
    seen = Seen((3, 1), 321, 321.0)
    answers = []
    for question in example.questions:
        answers.append(Answer.scored("none", example, question, seen, question.answer))
        answers.append(Answer.scored("globalcom2@0.1", example, question, seen, "a blue é dragon"))
    assert [answer.score for answer in answers] == [1.0, 0.0] * len(example.questions)
    places = {answer.topic: answer.score_with_places for answer in answers if answer.condition == "none"}
    assert places.pop(Topic.CAPTION) == 1.0
    assert set(places.values()) == {None}
    run = Run({"model": "tiny", "seconds": 2.0}, ("none", "globalcom2@0.1"), tuple(answers))
    run.write(tmp_path / "new" / "folder")
    assert Run.read(tmp_path / "new" / "folder") == run


def test_a_caption_right_but_for_places_scores_so() -> None:
    example = held_out(3, 168)
    question = Question(Topic.CAPTION, "Describe the image.", "")
    item = example.scene.items[0]
    elsewhere = next(place for place in ("on the left", "on the right") if place != example.scene.place(item))
    caption = next(question.answer for question in example.questions if question.topic is Topic.CAPTION)
    moved = caption.replace(example.scene.place(item), elsewhere)
    answer = Answer.scored("none", example, question, Seen((1, 1), 1, 1.0), moved)
    assert answer.score == 1.0
    assert answer.score_with_places is not None
    assert answer.score_with_places < 1.0


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    small_run().write(tmp_path)
    answers = tmp_path / "answers.jsonl"
    answers.write_text(answers.read_text().replace('"fullest_crop": 0.5, ', ""))
    with pytest.raises(ValueError, match=r"answers\.jsonl is of another version"):
        Run.read(tmp_path)


# --- crowding


def scene_of(width: int, height: int, *boxes: Box) -> Scene:
    return Scene(width, height, tuple(Item("cat", None, box) for box in boxes), 1.0, "seed")


def test_the_fullest_crop_is_found_by_area() -> None:
    left, right, between = Box(10, 10, 40, 40), Box(120, 10, 130, 40), Box(90, 50, 110, 65)
    assert fullest_crop(scene_of(200, 100, left), (1, 2)) == 1
    assert fullest_crop(scene_of(200, 100, left, right), (1, 2)) == pytest.approx(0.75)
    assert fullest_crop(scene_of(200, 100, left, right, between), (1, 2)) == pytest.approx((900 + 150) / 1500)


def test_the_fullest_crop_knows_the_padding() -> None:
    # 200 x 60 pixels in the middle of a canvas for 2 x 2 crops of 100: the line between its rows is the image's.
    above, below = Box(0, 0, 10, 30), Box(0, 30, 10, 60)
    assert fullest_crop(scene_of(200, 60, above), (2, 2)) == 1
    assert fullest_crop(scene_of(200, 60, above, below), (2, 2)) == pytest.approx(0.5)
    assert fullest_crop(scene_of(60, 200, Box(0, 0, 30, 10), Box(30, 0, 60, 10)), (2, 2)) == pytest.approx(0.5)


def test_prints_count_with_their_item() -> None:
    board = Print("7", Box(150, 10, 180, 40), 0, 12.0, "white")
    labelled = Item("cat", None, Box(20, 10, 50, 40), label=board)
    scene = Scene(200, 100, (labelled,), 1.0, "seed")
    assert fullest_crop(scene, (1, 2)) == pytest.approx(80 / 160)


def test_the_crowded_images_alone() -> None:
    run = small_run().crowded(0.8)
    assert {answer.image for answer in run.answers} == {0, 1}
    assert "\nonly images with 80% or more of what is drawn in one crop, model tiny" in report(summarise(run))
    with pytest.raises(ValueError, match="in none of the images does one crop hold 95%"):
        small_run().crowded(0.95)


def test_the_crowded_tables_are_printed_and_the_folder_keeps_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run().write(tmp_path)
    assert main(["--from", str(tmp_path), "--out", str(tmp_path), "--crowded", "0.8"]) == 0
    assert "2 held-out images" in capsys.readouterr().out
    assert "6 held-out images" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["images"] == 6


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--from", "out", "--images", "5"], "--images is for asking; with --from the answers are there already"),
        (["--from", "out", "--conditions", "none"], "--conditions is for asking"),
        (["--from", "out", "--max-new-tokens", "5"], "--max-new-tokens is for asking"),
        (["--images", "0"], "0 is not a positive whole number"),
        (["--first", "-1"], "'-1' is not a whole number of at least 0"),
        (["--workers", "some"], "'some' is not a whole number of at least 0"),
        (["--crowded", "2"], "2 is not a share between 0 and 1"),
        (["--crowded", "much"], "much is not a share between 0 and 1"),
    ],
)
def test_wrong_options_are_called_that(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert problem in capsys.readouterr().err


# --- decoding


@pytest.fixture(scope="module")
def text_model(random_checkpoints: dict[str, Path]) -> torch.nn.Module:
    return load_text_model(
        Checkpoint(str(random_checkpoints["llama"])), device=torch.device("cpu"), dtype=torch.float32
    )


def prompts_of(lots: np.random.Generator, vision: int, tails: Sequence[int]) -> SharedPrompts:
    table = torch.from_numpy(lots.normal(0, 0.6, (vision + 5, 48)).astype(np.float32))
    order = torch.from_numpy(lots.permutation(vision + 5)[:vision])
    return SharedPrompts(
        (2, 300, 301),
        EmbeddedImage.renumbered(table[order]),
        tuple(tuple(lots.integers(261, 350, n).tolist()) for n in tails),
    )


def test_the_decoder_writes_what_the_library_does(text_model: torch.nn.Module) -> None:
    """Prompts of unlike lengths together, against each by itself through `generate`."""
    lots = np.random.default_rng(11)
    groups = [prompts_of(lots, vision, tails) for vision, tails in ((40, (3, 9, 4)), (7, (5,)), (0, (6, 2)))]
    alone = [
        [library_answer(text_model, group, tail, end_ids=[3], max_new_tokens=12) for tail in group.tails]
        for group in groups
    ]
    # Ends that do come up, at different steps, so that finished answers leave the batch early.
    ends = [3, alone[0][1][2], alone[2][0][5], alone[1][0][8]]
    expected = [
        [library_answer(text_model, group, tail, end_ids=ends, max_new_tokens=12) for tail in group.tails]
        for group in groups
    ]
    decoder = GreedyDecoder(text_model, end_ids=ends, max_new_tokens=12)
    assert decoder.decode(groups) == expected
    assert len({len(answer) for answers in expected for answer in answers}) > 2
    assert GreedyDecoder(text_model, end_ids=[], max_new_tokens=12).decode(groups[1:2]) == [
        [library_answer(text_model, groups[1], groups[1].tails[0], end_ids=[], max_new_tokens=12)]
    ]


def library_answer(
    model: torch.nn.Module, group: SharedPrompts, tail: tuple[int, ...], *, end_ids: list[int], max_new_tokens: int
) -> tuple[int, ...]:
    embed = model.get_input_embeddings()
    head, rest = embed(torch.tensor(group.head)), embed(torch.tensor(tail))
    prompt = torch.cat([head, group.image.rows, rest])[None]  # [1, tokens, Dl]
    output = model.generate(
        inputs_embeds=prompt,
        attention_mask=torch.ones(prompt.shape[:2], dtype=torch.int64),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids or None,
        pad_token_id=0,
    )
    ids = output[0].tolist()
    return tuple(ids[: next((place for place, token in enumerate(ids) if token in end_ids), len(ids))])


def test_what_does_not_fit_the_context_is_refused(text_model: torch.nn.Module) -> None:
    group = prompts_of(np.random.default_rng(0), 1000, (10,))
    with pytest.raises(ValueError, match="do not fit the context of 1024"):
        GreedyDecoder(text_model, end_ids=[3], max_new_tokens=12).decode([group])


def test_a_sliding_window_is_refused(random_checkpoints: dict[str, Path]) -> None:
    model = load_text_model(
        Checkpoint(str(random_checkpoints["mistral"])), device=torch.device("cpu"), dtype=torch.float32
    )
    GreedyDecoder(model, end_ids=[3], max_new_tokens=1)  # its window is larger than its context
    model.config.sliding_window = 512
    with pytest.raises(ValueError, match="sliding window"):
        GreedyDecoder(model, end_ids=[3], max_new_tokens=1)
