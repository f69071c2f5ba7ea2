"""The tokenizer: byte-pair encoding learnt from the generator's sentences.

Words are whole tokens, characters of codes and prices one token each, so that reading a sign is spelling it out; bytes
catch everything else.
"""

import itertools
import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.dialogue.held_out import example
from training.scenes.lots import GRIDS, Canvas
from training.scenes.vocabulary import CHARACTERS, COLOURS, KINDS, plural

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %} "
    "{% else %}ASSISTANT: {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
_SPACE = "▁"
# Roles are single tokens; newlines, digits, points, dollars and capitals beside another capital or digit are separate.
_PIECES = Regex(r"USER|ASSISTANT|\n|[0-9]|[.,:?$]|[A-Z](?=[A-Z0-9])|(?<=[A-Z0-9])[A-Z]")
_CORPUS = 6000  # scenes
_VOCABULARY = 900  # at most


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Learn the tokenizer; the result does not depend on the platform."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never"),
            pre_tokenizers.Split(_PIECES, "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=[*CHARACTERS, _SPACE],
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=_without_special_bytes(tokenizer),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=4096,
    )


def _corpus() -> Iterator[str]:
    nouns = [f" {noun}" for kind in KINDS for noun in (kind, plural(kind))]
    yield from (" ".join(nouns + [f" {colour}" for colour in COLOURS]) for _ in range(50))
    yield from ("USER: ASSISTANT: first second third fourth image picture" for _ in range(50))
    lots = random.Random("tokenizer")
    for number in range(_CORPUS):
        shown = example("tokenizer", number, Canvas(*lots.choice(GRIDS), 168))
        yield from itertools.chain.from_iterable(
            (f"\n{question.text}", f" {question.answer}") for question in shown.questions
        )


def _without_special_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Make byte tokens ordinary: the trainer can reserve only special tokens, which decoding would drop."""
    plain = Tokenizer(tokenizer.model)
    plain.pre_tokenizer, plain.decoder = tokenizer.pre_tokenizer, tokenizer.decoder
    plain.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return plain
