"""What the public benchmarks' adapter sends: settings, prompts, sampling, and calls in order."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from visionsplit_client import Compression, ImagePart, Message, OverloadedError, Pruning

from benchmarks.public.calls import answers, patiently
from benchmarks.public.prompts import question_from
from benchmarks.public.sampling import sampling_from
from benchmarks.public.settings import Settings

RED, BLUE = Image.new("RGB", (5, 3), "red"), Image.new("RGB", (3, 5), "blue")
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)


def user(*parts: str | Image.Image) -> dict[str, object]:
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "url": part}
            for part in parts
        ],
    }


def test_one_image_and_a_question_are_llavas_own_prompt() -> None:
    question = question_from([user(RED, "What is it?\nAnswer shortly.")], "vicuna_v1")
    assert question.prompt is not None
    assert question.prompt.text == SYSTEM + "USER: <image>\nWhat is it?\nAnswer shortly. ASSISTANT:"
    assert question.messages is None
    assert question.images == (RED,)
    assert question.images[0].size == (5, 3)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((RED, BLUE, "Which?"), "<image> <image>\nWhich?"),
        ((RED, "and", BLUE, "differ?"), "<image>\nand<image>\ndiffer?"),
        ((RED, BLUE, "Is <image> above <image>?"), "Is <image> above <image>?"),
        (("No image at all?",), "No image at all?"),
    ],
)
def test_images_stand_where_llava_puts_them(parts: tuple[str | Image.Image, ...], text: str) -> None:
    question = question_from([user(*parts)], "vicuna_v1")
    assert question.prompt is not None
    assert question.prompt.text == f"{SYSTEM}USER: {text} ASSISTANT:"
    assert question.images == tuple(part for part in parts if not isinstance(part, str))


def test_earlier_turns_and_a_system_message_have_their_places() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        user(RED, "What?"),
        {"role": "assistant", "content": [{"type": "text", "text": "A car."}]},
        user("Where?"),
    ]
    question = question_from(turns, "vicuna_v1")
    assert question.prompt is not None
    assert question.prompt.text == "Be brief. USER: <image>\nWhat? ASSISTANT: A car.</s>USER: Where? ASSISTANT:"


def test_the_checkpoints_template_gets_the_conversation_itself() -> None:
    question = question_from([user(RED, "What?")], "checkpoint")
    assert question.prompt is None
    assert question.messages == (Message("user", [ImagePart(), "What?"]),)


def test_sound_and_video_are_refused() -> None:
    clip = {"role": "user", "content": [{"type": "video", "url": "clip.mp4"}]}
    with pytest.raises(ValueError, match="holds video as str"):
        question_from([clip], "vicuna_v1")


def test_arguments_are_read_and_written_alike() -> None:
    read = Settings.from_arguments(
        {
            "encoder": "one:1;two:2",
            "method": "globalcom2",
            "retention_ratio": 0.1,
            "parameters": "tau=10;alpha=0.5",
            "quotas_only": True,
            "pruning": "fastv",
            "pruning_parameters": "layer=3",
            "position_ids": "original",
            "data_type": "int8",
            "concurrency": 3,
            "tokens_file": "out/tokens.json",
        }
    )
    assert read.encoder == ("one:1", "two:2")
    assert read.compression == Compression("globalcom2", 0.1, parameters={"tau": 10.0, "alpha": 0.5}, quotas_only=True)
    assert read.llm_pruning == Pruning("fastv", None, {"layer": 3.0})
    assert read.tokens_file == Path("out/tokens.json")
    assert read.to_arguments() == (
        "encoder=one:1;two:2,method=globalcom2,retention_ratio=0.1,parameters=tau=10;alpha=0.5,quotas_only=true,"
        "pruning=fastv,pruning_parameters=layer=3,position_ids=original,data_type=int8,concurrency=3,"
        "tokens_file=out/tokens.json"
    )
    assert Settings.from_arguments({}).llm_pruning is None
    assert Settings().to_arguments() == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"methd": "none"}, "unknown model arguments: methd; there are: encoder, method"),
        ({"retention_ratio": "ten"}, "a number is needed"),
        ({"concurrency": 1.5}, "a whole number is needed"),
        ({"concurrency": 0}, "must be above 0"),
        ({"quotas_only": 1}, "true or false is needed"),
        ({"layout": "round"}, "spatial, reference exist"),
        ({"parameters": "tau"}, "NAME=NUMBER is needed"),
        ({"encoder": ";"}, "at least one address"),
        ({"pruning_ratio": 0.1}, "need pruning"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, str | float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings.from_arguments(arguments)


def test_short_answers_are_decoded_greedily() -> None:
    task = {"until": ["ASSISTANT:", ""], "max_new_tokens": 16, "temperature": 0, "top_p": 0, "num_beams": 1}
    sampling = sampling_from({**task, "do_sample": False}, stop="until", seed=7)
    assert (sampling.max_new_tokens, sampling.temperature, sampling.stop) == (16, 0.0, ("ASSISTANT:",))
    assert (sampling.top_p, sampling.seed) == (None, None)
    assert sampling_from(task, stop="none", seed=7).stop == ()
    assert sampling_from({"until": "\n"}, stop="until", seed=7).stop == ("\n",)
    assert sampling_from({"until": None}, stop="until", seed=7).max_new_tokens == 1024


def test_a_temperature_samples_with_a_seed() -> None:
    sampling = sampling_from({"temperature": 0.2, "top_p": 1.0, "do_sample": False}, stop="none", seed=7)
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.2, 1.0, 7)


def test_what_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(ValueError, match="num_beams is 5"):
        sampling_from({"num_beams": 5}, stop="none", seed=0)
    with pytest.raises(ValueError, match="length_penalty are not known"):
        sampling_from({"length_penalty": 1.0}, stop="none", seed=0)


def test_answers_keep_the_questions_order_with_several_under_way() -> None:
    both = threading.Barrier(2, timeout=10)  # passes only if two calls are under way at once

    def ask(number: int) -> int:
        if number < 2:
            both.wait()
            time.sleep(0.05 * (1 - number))  # the first ends last
        return number * number

    assert list(answers(ask, range(50), concurrency=2)) == [number * number for number in range(50)]


def test_no_more_questions_are_drawn_than_can_wait() -> None:
    drawn: list[int] = []

    def questions() -> Iterator[int]:
        for number in range(20):
            drawn.append(number)
            yield number

    stream = answers(lambda number: number, questions(), concurrency=2)
    assert next(stream) == 0
    assert len(drawn) == 4
    assert list(stream) == list(range(1, 20))


def test_the_first_failure_ends_it() -> None:
    def ask(number: int) -> int:
        if number == 3:
            raise KeyError(number)
        return number

    stream = answers(ask, range(100), concurrency=2)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(stream)


def test_an_overloaded_service_is_asked_again() -> None:
    waits: list[float] = []

    def call() -> str:
        if len(waits) < 3:
            raise OverloadedError("the queue is full")
        return "answer"

    assert patiently(call, seconds=10, wait=waits.append) == "answer"
    assert waits == [0.5, 1.0, 2.0]


def test_patience_ends() -> None:
    waits: list[float] = []

    def call() -> str:
        raise OverloadedError("the queue is full")

    with pytest.raises(OverloadedError):
        patiently(call, seconds=3.5, wait=waits.append)
    assert waits == [0.5, 1.0, 2.0]
