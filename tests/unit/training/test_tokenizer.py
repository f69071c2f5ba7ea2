"""Encoding text to tokens and back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from training.dialogue.held_out import held_out
from training.scenes.vocabulary import CHARACTERS, COLOURS, EMOJI, KINDS, SHAPES, WORDS


def round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)


def test_codes_and_prices_are_spelled_out(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in (*WORDS, "4DC7", "EN", "WWWW", "RST", "IMAGE", "$42", "$3.84", "USA"):
        tokens = tokenizer.tokenize(f" {text}")
        assert [token for token in tokens if token != "▁"] in (list(text), [f"▁{text[0]}", *text[1:]])
        assert round_trip(tokenizer, f"It reads {text}.") == f"It reads {text}."
    assert {tokenizer.tokenize(character)[0] for character in CHARACTERS} == set(CHARACTERS)


def test_names_are_whole_words(tokenizer: PreTrainedTokenizerFast) -> None:
    for word in (*EMOJI, *SHAPES, *COLOURS):
        assert tokenizer.tokenize(f" {word}") == [f"▁{word}"]


def test_every_question_and_answer_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    for number in range(100):
        for question in held_out(number, 168).questions:
            text = f"{question.text} ASSISTANT: {question.answer}"
            assert round_trip(tokenizer, text) == text
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(f"x{text}", add_special_tokens=False).input_ids  # after a letter: a first space is the decoder's
    special = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "▁")
    if not any(token in text for token in special):
        assert tokenizer.decode(ids) == f"x{text}"
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("text", ["Grüße, 你好", "a\n\nb", "é😀\u200d", "  two  spaces ", "tab\t\x00end"])
def test_bytes_catch_the_rest(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert round_trip(tokenizer, f"x{text}") == f"x{text}"


def test_special_tokens_are_single_and_vanish(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("<s>USER: <image>\nhi</s>").input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.convert_tokens_to_ids("<image>") in tokenizer("<s>USER: <image>\nhi").input_ids
    said = tokenizer("a cat</s><pad>").input_ids
    assert tokenizer.decode(said, skip_special_tokens=True) == "a cat"


def test_a_saved_tokenizer_is_the_same(tokenizer: PreTrainedTokenizerFast, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in (f"a {kind} that reads 4DC7 für $3.84\n" for kind in KINDS):
        assert loaded(text).input_ids == tokenizer(text).input_ids
    assert (loaded.bos_token_id, loaded.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
