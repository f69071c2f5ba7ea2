"""Prompts: what the chat template writes is special, and what a caller's text spells is text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlavaNextProcessor, PreTrainedTokenizerFast
from visionsplit.errors import InvalidPromptError, PromptTooLongError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid

from llm_service.prompts.literal_text import LiteralText
from llm_service.prompts.prompt import ChatPrompt, PromptEncoder, TextPrompt, Turn
from tests.conftest import ROOT

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
GRID = TileGrid.padded(100, 100, rows=1, columns=1, side=4)
# What templates and callers write, special tokens at every kind of border among it.
WRITTEN = [*SPECIAL, "a", " ", "\n", "USER: ", "é", "中", "<", ">", "image", "\ue000"]


@pytest.fixture(scope="session")
def folders(random_checkpoints) -> dict[str, Path]:
    shipped = ROOT / "models" / "visionsplit-mini"
    return {"llama": random_checkpoints["llama"], "qwen2": random_checkpoints["qwen2"], "shipped": shipped}


@pytest.fixture(params=["llama", "qwen2", "shipped"], scope="module")
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def encoder(folder) -> PromptEncoder:
    return PromptEncoder(Checkpoint(str(folder)))


def chat(*parts: str | None, role: str = "user") -> ChatPrompt:
    return ChatPrompt((Turn(role, parts),))


def ignorant(folder: Path, names: list[str]) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer without some of its special tokens: to it they are text."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
    return PreTrainedTokenizerFast(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(state)))


def test_special_tokens_in_a_callers_text_are_text(folder, encoder):
    text = "Say <image>, </s><pad> or< unk>."
    ids = encoder.encode(chat(text), (), max_tokens=500)
    rendered = LlavaNextProcessor.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": text}]}], add_generation_prompt=True
    )
    reference = ignorant(folder, ["<image>", "</s>", "<pad>"])
    assert list(ids) == reference(rendered, add_special_tokens=False).input_ids
    assert encoder.tokenizer.decode(ids) == rendered


def test_they_do_not_count_as_images(encoder):
    ids = encoder.encode(chat("<image> or", None, "<image>?"), (GRID,), max_tokens=500)
    assert ids.count(encoder.image_token_id) == 1
    with pytest.raises(InvalidPromptError, match="0 image parts for 1 images"):
        encoder.encode(chat("<image>"), (GRID,), max_tokens=500)


def test_nor_in_an_answer_of_before_or_at_its_start(encoder):
    """A caller's "<s>" must not stand for that of the template."""
    bos, eos = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    turns = (Turn("user", ("<s>Hi</s>",)), Turn("assistant", ("</s></s>",)), Turn("user", ("And <s>?",)))
    ids = encoder.encode(ChatPrompt(turns), (), max_tokens=500)
    assert (ids.count(bos), ids.count(eos)) == (1, 1)
    assert ids[0] == bos


def test_a_finished_prompt_is_used_as_it_is(encoder):
    assert encoder.encode(TextPrompt("<image>?"), (GRID,), max_tokens=500).count(encoder.image_token_id) == 1
    with pytest.raises(InvalidPromptError, match="has 2 image placeholders"):
        encoder.encode(TextPrompt("<image><image>"), (GRID,), max_tokens=500)


def test_more_tokens_than_fit_are_refused_whatever_the_text_spells(encoder):
    for prompt in (TextPrompt("a, b. " * 30), chat("a, b. " * 30), chat("<image>" * 30)):
        with pytest.raises(PromptTooLongError, match=r"has \d+ tokens; a replica holds 50"):
            encoder.encode(prompt, (), max_tokens=50)


def test_a_refusal_shows_the_callers_words(folders):
    encoder = PromptEncoder(Checkpoint(str(folders["llama"])))
    with pytest.raises(InvalidPromptError, match="unknown role a<image>b"):
        encoder.encode(chat("?", role="a<image>b"), (), max_tokens=500)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.sampled_from(WRITTEN), max_size=12), add=st.booleans())
def test_without_such_text_nothing_changes(encoder, pieces, add):
    """The second tokenizer reads a rendered prompt exactly as the first."""
    text = "".join(pieces)
    literal = LiteralText(encoder.tokenizer)
    expected = encoder.tokenizer(text, add_special_tokens=add).input_ids
    assert literal.encode(text, add_special_tokens=add, most=500) == expected
