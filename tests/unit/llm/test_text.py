"""Incremental detokenising, and stop strings."""

import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm_service.prompts.detokenizer import Detokenizer, StopStrings
from tests.checkpoints import tiny_checkpoint

TEXT = "Grüße, 世界! 👩‍👩‍👧 naïve  spaces\n\nnew ｆｕｌｌ"


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    return AutoTokenizer.from_pretrained(folder)


def pieces(tokenizer, ids: list[int], size: int) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    found = [detokenizer.add(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [*found, detokenizer.finish()]


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pieces_are_whole_characters_and_make_up_the_text(tokenizer, size: int):
    ids = tokenizer(TEXT).input_ids
    found = pieces(tokenizer, ids, size)
    assert "\ufffd" not in "".join(found)
    assert "".join(found) == tokenizer.decode(ids, skip_special_tokens=True)
    if size == 1:
        assert sum(bool(piece) for piece in found) > 10


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_tokens_make_up_what_the_tokenizer_decodes(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    assert "".join(pieces(tokenizer, ids, 1)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_long_run_of_broken_characters_takes_linear_time(tokenizer):
    """Each of these ends in what may become a character, so nothing can be sent before the end."""
    (first_byte,) = tokenizer("世", add_special_tokens=False).input_ids[:1]
    ids = [first_byte] * 4000
    decoded = 0
    decode = tokenizer.decode

    class Counting:
        all_special_ids = tokenizer.all_special_ids
        convert_ids_to_tokens = staticmethod(tokenizer.convert_ids_to_tokens)

        def decode(self, ids, **options):
            nonlocal decoded
            decoded += len(ids)
            return decode(ids, **options)

    assert "".join(pieces(Counting(), ids, 1)) == decode(ids, skip_special_tokens=True)
    assert decoded < 20 * len(ids)


def test_an_unfinished_character_comes_out_at_the_end(tokenizer):
    ids = tokenizer("a世").input_ids[:-1]
    found = pieces(tokenizer, ids, 1)
    assert "\ufffd" not in "".join(found[:-1])
    assert "\ufffd" in found[-1]


def stopped(text: str, strings: tuple[str, ...], size: int) -> tuple[str, bool, list[str]]:
    stop = StopStrings(strings)
    found: list[str] = []
    for start in range(0, len(text), size):
        found.append(stop.add(text[start : start + size]))
        if stop.reached:
            return "".join(found), True, found
    return "".join(found) + stop.finish(), False, found


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "strings", "expected", "reached"),
    [
        ("hello world", ("lo w",), "hel", True),
        ("hello world", ("xyz",), "hello world", False),
        ("aaab", ("aab",), "a", True),
        ("ab", ("abc",), "ab", False),
        ("one END two", ("END", "two"), "one ", True),
        ("stop", ("stop",), "", True),
        ("abcd", ("bcd", "c"), "ab", True),
        ("anything", (), "anything", False),
    ],
)
def test_stop_strings(text: str, strings: tuple[str, ...], expected: str, reached: bool, size: int):
    found, was_reached, parts = stopped(text, strings, size)
    assert (found, was_reached) == (expected, reached)
    assert not any(stop in "".join(parts) for stop in strings)


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
    size=st.integers(1, 5),
)
def test_any_stop_strings(text: str, stops: list[str], size: int):
    found, reached, _ = stopped(text, tuple(stops), size)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert reached == bool(ends)
    assert found == (text[: min(ends)[1]] if ends else text)


def test_long_stop_strings_cost_little_for_each_token():
    stop = StopStrings(("a" * 255 + "b", *(f"{number:x}" * 256 for number in range(10))))
    started = time.process_time()
    assert "".join(stop.add("a") for _ in range(20_000)) + stop.finish() == "a" * 20_000
    assert time.process_time() - started < 3.0  # a comparison of every end with every beginning takes ten seconds


def test_text_that_cannot_be_a_stop_string_is_not_held_back():
    stop = StopStrings(("END",))
    assert stop.add("hello") == "hello"
    assert stop.add(" E") == " "
    assert stop.add("x") == "Ex"
