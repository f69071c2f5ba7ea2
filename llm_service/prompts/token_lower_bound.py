"""A lower bound on the number of tokens of a text, computed in milliseconds without tokenising it.

Every byte of a text ends up in some token, and a token of L bytes covers at most L of them. So a byte b accounts for at
least 1 / (length of the longest token that contains b) of a token, and the sum of this over a text never exceeds the
number of its tokens. The argument holds only if the tokenizer neither drops nor merges characters before tokenising,
which `_keeps_text` decides from the types of the tokenizer's components. For other tokenizers the bound is 0.
"""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

_Part: TypeAlias = dict[str, Any]  # a component of a tokenizer, as the tokenizer's file describes it

_SPACE = "▁"  # SentencePiece's symbol for a space, which also stands for itself where a text contains one
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_KEEPING_NORMALIZERS = ("Prepend", "NFC", "ByteLevel")
_KEEPING_PRE_TOKENIZERS = ("Metaspace", "ByteLevel", "Split", "Digits", "Punctuation")
# Bytes of all characters that a special token with lstrip or rstrip may absorb.
_WHITESPACE = frozenset("".join(chr(code) for code in range(0x3001) if chr(code).isspace()).encode())

_BLOCK_BYTES = 1 << 16
# Unicode composition changes no character outside this range.
_FIRST_CHANGING, _LAST_CHANGING = 0x0A0, 0x30000


class FewestTokens:
    """Computes lower bounds for one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.longest_token = max((len(token.encode()) for token in tokenizer.get_vocab()), default=1)  # bytes in UTF-8
        self._weights = np.zeros(256)  # of each byte, in tokens
        self._changing: npt.NDArray[np.bool_] | None = None
        if not tokenizer.is_fast:
            return
        state: _Part = json.loads(tokenizer.backend_tokenizer.to_str())
        normalizers, pre_tokenizers = (list(_parts(state[key])) for key in ("normalizer", "pre_tokenizer"))
        if any(part["type"] == "NFC" for part in normalizers):
            self._changing = _changing_in_nfc()
        byte_level = any(part["type"] == "ByteLevel" for part in (*normalizers, *pre_tokenizers))
        if _keeps_text(state["model"], normalizers, pre_tokenizers, byte_level=byte_level):
            added = [token["content"] for token in state["added_tokens"]]
            strips = any(token["lstrip"] or token["rstrip"] for token in state["added_tokens"])
            self._weights = _weights(state["model"], added, byte_level=byte_level, strips=strips)

    def of(self, text: str) -> int:
        """A lower bound on the text's tokens, not counting tokens that a prompt gets without any text."""
        data = text.encode() if self._changing is None or text.isascii() else _untouched(text, self._changing)
        values = np.frombuffer(data, np.uint8)
        # In blocks, since `bincount` converts its input to integers of eight bytes.
        blocks = (values[start : start + _BLOCK_BYTES] for start in range(0, len(values), _BLOCK_BYTES))
        counts = sum((np.bincount(block, minlength=256) for block in blocks), np.zeros(256, np.int64))
        # Rounded down: floating point may make the sum of many fractions slightly too large.
        return int(counts @ self._weights)


def _parts(part: _Part | None) -> Iterator[_Part]:
    """The component itself, or the components of a sequence."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for inner in part.get("normalizers") or part.get("pretokenizers") or ():
        yield from _parts(inner)


def _keeps_text(model: _Part, normalizers: list[_Part], pre_tokenizers: list[_Part], *, byte_level: bool) -> bool:
    """Whether every byte of a text reaches a token.

    A model with a token for each byte neither drops characters nor turns several of them into one unknown token.
    """
    for part in normalizers:
        blank = part["type"] == "Replace" and (part["pattern"], part["content"]) == ({"String": " "}, _SPACE)
        if not blank and part["type"] not in _KEEPING_NORMALIZERS:
            return False
    for part in pre_tokenizers:
        if part["type"] not in _KEEPING_PRE_TOKENIZERS or part.get("behavior") == "Removed":
            return False
    if model["type"] not in ("BPE", "Unigram"):
        return False
    if not (byte_level or model.get("byte_fallback")):
        return False
    return set(_tokens(model)).issuperset(ByteLevel.alphabet() if byte_level else _BYTE_TOKENS)


def _tokens(model: _Part) -> list[str]:
    """The tokens of a BPE vocabulary, a mapping to ids, or of a Unigram vocabulary, a list with scores."""
    return list(model["vocab"]) if model["type"] == "BPE" else [token for token, _ in model["vocab"]]


def _weights(model: _Part, added: list[str], *, byte_level: bool, strips: bool) -> npt.NDArray[np.float64]:
    bytes_of = _byte_level_alphabet() if byte_level else {}
    longest = np.ones(256)

    def note(data: bytes, length: int) -> None:
        values = np.frombuffer(data, np.uint8)
        longest[values] = np.maximum(longest[values], length)

    for token in _tokens(model):
        data = b"".join(bytes_of.get(character, character.encode()) for character in token)
        note(data + b" " if _SPACE in token else data, len(data))
    for token in added:
        note(token.encode(), len(token.encode()))
    weights: npt.NDArray[np.float64] = 1 / longest
    if strips:
        weights[list(_WHITESPACE)] = 0
    return weights


def _byte_level_alphabet() -> dict[str, bytes]:
    """The byte that each character of a byte-level vocabulary stands for: printable bytes stand for themselves, the
    others are numbered from U+0100 on."""
    printable = {chr(byte) for byte in range(256)}.intersection(ByteLevel.alphabet())
    others = (byte for byte in range(256) if chr(byte) not in printable)
    return {
        **{character: bytes([ord(character)]) for character in printable},
        **{chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)},
    }


def _untouched(text: str, changing: npt.NDArray[np.bool_]) -> bytes:
    """The characters that Unicode composition (NFC) leaves unchanged whatever their neighbours, in UTF-8.

    The text is not composed: Python's `normalize` takes time quadratic in the length of a run of combining marks.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    touched = changing[codes]
    touched[:-1] |= touched[1:].copy()  # the character before a mark may be composed with it
    kept: bytes = codes[~touched].tobytes()
    return kept.decode("utf-32-le").encode()


def _changing_in_nfc() -> npt.NDArray[np.bool_]:
    """Whether composition may replace a code point or join it to the one before, [0x110000] bool."""
    table = np.zeros(0x110000, np.bool_)
    for code in range(_FIRST_CHANGING, _LAST_CHANGING):
        character = chr(code)
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            table[code] = True
        # The second character of a composition need not be a combining mark.
        decomposed = unicodedata.decomposition(character).split()
        if len(decomposed) == 2 and not decomposed[0].startswith("<"):
            table[int(decomposed[1], 16)] = True
    table[0x1161:0x1176] = table[0x11A8:0x11C3] = True  # Hangul, whose compositions follow from arithmetic, not a table
    return table
