"""Token ids to text, piece by piece."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# SentencePiece's fallback for characters that are no token. A run of these is decoded as one: a byte that does not fit
# turns all of the run into replacement characters.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TOKENS_OF_CHARACTER = 8  # a character has at most four bytes, and some tokens add nothing to the text
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
        self._retry_at = 0  # tokens there must be before the pending ones are decoded again

    def add(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete; empty while a character is unfinished."""
        pieces: list[str] = []
        for token_id in token_ids:
            self._ids.append(token_id)
            if len(self._ids) < self._retry_at or token_id in self._special or self._is_byte(token_id):
                continue
            piece = self._pending()
            if piece and not piece.endswith(_INCOMPLETE):
                pieces.append(piece)
                self._context, self._emitted = self._emitted, len(self._ids)
            else:
                # No character has as many tokens. Decoding a long run anew for each token would take quadratic time.
                self._retry_at = len(self._ids) + (len(self._ids) - self._emitted) // _TOKENS_OF_CHARACTER
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


class StopStrings:
    """Ends the text before a stop string, holding back what may become one.

    The stop string that is complete first wins, however the text is cut into pieces. Each character is compared once
    or twice with each stop string, however long it is (Knuth, Morris and Pratt's search).
    """

    def __init__(self, strings: tuple[str, ...]) -> None:
        self.reached = False
        self._held = ""
        self._searches = [_Search(stop) for stop in strings]

    def add(self, text: str) -> str:
        """The part of the text so far held back and this one that is certain to stay."""
        if self.reached or not self._searches:
            return "" if self.reached else text
        held = self._held + text
        for end, character in enumerate(text, len(self._held) + 1):
            complete = [len(search.stop) for search in self._searches if search.advance(character)]
            if complete:
                self.reached, self._held = True, ""
                return held[: end - max(complete)]
        keep = max(search.matched for search in self._searches)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """The text held back, once no more comes."""
        held, self._held = self._held, ""
        return held


class _Search:
    """Looks for one string in a text that comes character by character."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0  # characters of the stop string at the end of the text
        self._shorter = [0]  # for each beginning of the stop string: its longest shorter one that also ends it
        for character in stop[1:]:
            self._shorter.append(self._next(self._shorter[-1], character))

    def advance(self, character: str) -> bool:
        """Take the text's next character. Whether the stop string is complete."""
        self.matched = self._next(self.matched, character)
        return self.matched == len(self.stop)

    def _next(self, matched: int, character: str) -> int:
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched - 1]
        return matched + (self.stop[matched] == character)
