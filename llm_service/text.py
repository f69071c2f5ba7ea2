"""Token ids to text, piece by piece."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

# SentencePiece's fallback for characters that are no token. A run of these is decoded as one: a byte that does not fit
# turns all of the run into replacement characters.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_INCOMPLETE = "\ufffd"  # what a tokenizer decodes the first bytes of an unfinished character to


class Detokenizer:
    """Decodes a growing list of tokens without ever emitting part of a character.

    The pieces together are what the tokenizer makes of all tokens at once, special tokens left out.
    Tokens are decoded together with the piece before them, since a tokenizer's spaces depend on the neighbour.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._context = 0  # first token decoded again for its neighbours' sake
        self._emitted = 0  # tokens before this one are in the text already

    def add(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete; empty while a character is unfinished."""
        pieces: list[str] = []
        for token_id in token_ids:
            self._ids.append(token_id)
            if token_id in self._special or self._is_byte(token_id):
                continue
            piece = self._pending()
            if piece and not piece.endswith(_INCOMPLETE):
                pieces.append(piece)
                self._context, self._emitted = self._emitted, len(self._ids)
        return "".join(pieces)

    def finish(self) -> str:
        """What is left, with replacement characters for bytes that never became a character."""
        piece = self._pending()
        self._context = self._emitted = len(self._ids)
        return piece

    def _is_byte(self, token_id: int) -> bool:
        return _BYTE_TOKEN.fullmatch(self._tokenizer.convert_ids_to_tokens(token_id) or "") is not None

    def _pending(self) -> str:
        known = self._decode(self._ids[self._context : self._emitted])
        return self._decode(self._ids[self._context :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


@dataclass
class StopStrings:
    """Ends the text before a stop string, holding back what may become one.

    The stop string that is complete first wins, however the text is cut into pieces.
    """

    strings: tuple[str, ...]
    reached: bool = False
    _held: str = field(default="", init=False)

    def add(self, text: str) -> str:
        """The part of the text so far held back and this one that is certain to stay."""
        if self.reached or not self.strings:
            return "" if self.reached else text
        held = self._held + text
        matches = [(start + len(stop), start) for stop in self.strings if (start := held.find(stop)) >= 0]
        if matches:
            self.reached, self._held = True, ""
            return held[: min(matches)[1]]
        keep = max(_overlap(held, stop) for stop in self.strings)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """The text held back, once no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
