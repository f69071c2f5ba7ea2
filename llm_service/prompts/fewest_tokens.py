"""How few tokens a text can become, computed in milliseconds without tokenising it.

Every byte of a text ends up in a token, and a token of L bytes takes at most L of them. So a byte b costs at least
1 / (the length of the longest token with b in it) of a token, and the sum of this over a text is never more than the
number of its tokens. That holds only where the tokenizer drops and merges nothing on the way, which `_keeps_text`
decides by the kinds of its parts. Of other tokenizers nothing is said (the sum is 0).
"""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

_Part: TypeAlias = dict[str, Any]  # of a tokenizer, as its file describes it

_SPACE = "▁"  # SentencePiece's: stands for a blank, and for itself where a text has one
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_KEEPING_NORMALIZERS = ("Prepend", "NFC", "ByteLevel")
_KEEPING_PRE_TOKENIZERS = ("Metaspace", "ByteLevel", "Split", "Digits", "Punctuation")
# Bytes of all characters that a special token with lstrip or rstrip may swallow.
_WHITESPACE = frozenset("".join(chr(code) for code in range(0x3001) if chr(code).isspace()).encode())

_BLOCK_BYTES = 1 << 16
# Beyond these, no character of Unicode is changed by composition.
_FIRST_CHANGING, _LAST_CHANGING = 0x0A0, 0x30000


class FewestTokens:
    """Lower bounds for one tokenizer. Thread-safe."""

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
        """At least so many tokens, those that a prompt gets without text left out."""
        data = text.encode() if self._changing is None or text.isascii() else _untouched(text, self._changing)
        places = np.frombuffer(data, np.uint8)
        # In blocks, as NumPy counts in integers of eight bytes.
        blocks = (places[start : start + _BLOCK_BYTES] for start in range(0, len(places), _BLOCK_BYTES))
        counts = sum((np.bincount(block, minlength=256) for block in blocks), np.zeros(256, np.int64))
        # Not rounded up: a sum of many fractions may be slightly too large.
        return int(counts @ self._weights)


def _parts(part: _Part | None) -> Iterator[_Part]:
    """A normalizer or pre-tokenizer, or those of a sequence."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for inner in part.get("normalizers") or part.get("pretokenizers") or ():
        yield from _parts(inner)


def _keeps_text(model: _Part, normalizers: list[_Part], pre_tokenizers: list[_Part], *, byte_level: bool) -> bool:
    """Whether every byte of a text reaches a token. A model with a token for each byte neither drops characters nor
    makes one unknown token of several."""
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
    """Those of a BPE vocabulary, which maps them to ids, or of a Unigram one, a list with their scores."""
    return list(model["vocab"]) if model["type"] == "BPE" else [token for token, _ in model["vocab"]]


def _weights(model: _Part, added: list[str], *, byte_level: bool, strips: bool) -> npt.NDArray[np.float64]:
    bytes_of = _byte_level_alphabet() if byte_level else {}
    longest = np.ones(256)

    def note(data: bytes, length: int) -> None:
        places = np.frombuffer(data, np.uint8)
        longest[places] = np.maximum(longest[places], length)

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
    """The byte that each character of a byte-level vocabulary stands for: itself where it can be printed, else, in
    order, from U+0100 on."""
    printable = {chr(byte) for byte in range(256)}.intersection(ByteLevel.alphabet())
    others = (byte for byte in range(256) if chr(byte) not in printable)
    return {
        **{character: bytes([ord(character)]) for character in printable},
        **{chr(0x100 + index): bytes([byte]) for index, byte in enumerate(others)},
    }


def _untouched(text: str, changing: npt.NDArray[np.bool_]) -> bytes:
    """The characters that Unicode's composition (NFC) leaves as they are, whatever stands beside them, in UTF-8.

    Composition itself is not tried: Python's takes time that grows with the square of a run of combining marks.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    touched = changing[codes]
    touched[:-1] |= touched[1:].copy()  # what comes before a mark may be composed with it
    kept: bytes = codes[~touched].tobytes()
    return kept.decode("utf-32-le").encode()


def _changing_in_nfc() -> npt.NDArray[np.bool_]:
    """For each code point whether composition may replace it or join it to what comes before, [0x110000] bool."""
    table = np.zeros(0x110000, np.bool_)
    for code in range(_FIRST_CHANGING, _LAST_CHANGING):
        character = chr(code)
        if unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
            table[code] = True
        # The second part of a composition need not be a mark.
        decomposed = unicodedata.decomposition(character).split()
        if len(decomposed) == 2 and not decomposed[0].startswith("<"):
            table[int(decomposed[1], 16)] = True
    table[0x1161:0x1176] = table[0x11A8:0x11C3] = True  # Hangul's, whose compositions are computed, not listed
    return table
