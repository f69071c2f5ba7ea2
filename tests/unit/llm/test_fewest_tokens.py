"""The bound on a text's tokens: never more than there are, and close to it for text that cannot fit."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from visionsplit.errors import InvalidPromptError, PromptTooLongError

from llm_service.prompts.length_limit import PromptSize
from llm_service.prompts.prompt import ChatPrompt, TextPrompt, Turn
from llm_service.prompts.token_lower_bound import FewestTokens
from tests.conftest import ROOT

CORPUS = [
    "the quick brown fox      jumps  ---------- ========= aaaaaaaa \n\n\n\n",
    "中文中文中文 élève e\u0301e\u0301 한국어 😀😀😀😀 `````` ",
] * 20
# What normalizers compose, swallow or replace, and what vocabularies have long tokens of.
COMPOSED = ["\u1112\u1161\u11ab", "e\u0301", "\u212a", "\u1b06\u1b35"]
PARTS = ["\u0301", "\u0327", "\u1161", "\u11a8", "\u037e", "\u0958", "\u3000", "▁", "<tok>", "</s>", "<0x41>"]
WORDS = ["a", "e", " ", "-", "=", "`", "\n", "é", "한", "中", "文", "😀", "the quick", "      ", "--------", "中文中文"]
WRITTEN = st.sampled_from([*COMPOSED, *PARTS, *WORDS])


def llamas() -> Tokenizer:
    """SentencePiece's way: a blank becomes U+2581, and characters without a token become bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, limit_alphabet=60)
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = tokenizer.to_str().replace('"special": true', '"special": false')
    return Tokenizer.from_str(state)


def qwens() -> Tokenizer:
    """Byte-level, with composed characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet))
    return tokenizer


def swallowing() -> Tokenizer:
    """One whose special tokens take the blanks around them."""
    tokenizer = qwens()
    tokenizer.add_special_tokens([AddedToken("<tok>", lstrip=True, rstrip=True, normalized=False, special=True)])
    return tokenizer


def forgetful() -> Tokenizer:
    """One that drops text: what it makes of a text says nothing about its length."""
    tokenizer = qwens()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC(), normalizers.StripAccents()])
    return tokenizer


TRAINED = {make.__name__: make for make in (llamas, qwens, swallowing, forgetful)}


@pytest.fixture(scope="module", params=[*TRAINED, "shipped", "llama", "qwen2"])
def tokenizer(request, random_checkpoints):
    if request.param in TRAINED:
        return PreTrainedTokenizerFast(tokenizer_object=TRAINED[request.param]())
    folders = {"shipped": ROOT / "models" / "visionsplit-mini", **random_checkpoints}
    return AutoTokenizer.from_pretrained(folders[request.param])


@pytest.fixture(scope="module")
def fewest(tokenizer) -> FewestTokens:
    return FewestTokens(tokenizer)


@example(pieces=[(text, 40) for text in COMPOSED])
@example(pieces=[("\u1112\u1161\u11ab", 40)])
@example(pieces=[(" ", 40), ("<tok>", 1), ("\u3000\n", 40)])
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.tuples(WRITTEN | st.characters(exclude_categories=["Cs"]), st.integers(1, 40)), max_size=8))
def test_no_text_has_fewer_tokens(tokenizer, fewest, pieces):
    text = "".join(piece * times for piece, times in pieces)
    tokens = len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    assert fewest.of(text) <= tokens


@pytest.mark.parametrize("kind", ["llamas", "qwens"])
@pytest.mark.parametrize("character", ["q", "中", "😀", "\u00e9", "\n"])
def test_text_that_cannot_fit_is_known_before_it_is_tokenized(kind, character):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=TRAINED[kind]())
    fewest, text = FewestTokens(tokenizer), character * 900_000
    size = PromptSize(fewest, context_length=1000, max_characters=1_000_000)
    started = time.process_time()
    assert fewest.of(text) > 1000
    assert time.process_time() - started < 0.5  # the tokenizer needs up to two seconds
    for prompt in (TextPrompt(text), ChatPrompt((Turn("user", (text[:450_000], None, text[450_000:])),))):
        started = time.process_time()
        with pytest.raises(InvalidPromptError):
            size.check(prompt)
        assert time.process_time() - started < 0.5


def test_what_the_operator_or_the_context_allows_is_said(fewest):
    longest = fewest.longest_token
    with pytest.raises(InvalidPromptError, match="has 101 characters; at most 100 are accepted"):
        PromptSize(fewest, context_length=1000, max_characters=100).check(TextPrompt("a" * 101))
    with pytest.raises(InvalidPromptError, match=f"at most {10 * longest} are accepted"):
        PromptSize(fewest, context_length=10, max_characters=1_000_000).check(TextPrompt(" " * (10 * longest + 1)))
    if fewest.of("z" * 100):
        with pytest.raises(PromptTooLongError, match=r"at least \d+ tokens; a replica holds 10$"):
            PromptSize(fewest, context_length=10, max_characters=1000).check(TextPrompt("z" * 10 * longest))
