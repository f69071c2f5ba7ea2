"""Decodes generated token ids to text incrementally, and ends the text at stop strings."""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# SentencePiece's fallback for characters without a token. A run of these is decoded together: one byte that does not
# fit turns the whole run into replacement characters.
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_TOKENS_OF_CHARACTER = 8  # a character has at most four bytes, and some tokens add nothing to the text
_INCOMPLETE = "\ufffd"  # the character to which tokenizers decode the first bytes of an unfinished character


class Detokenizer:
    """Decodes a growing list of tokens without ever emitting part of a character.

    The concatenated pieces equal the tokenizer's text for all tokens at once, without special tokens.
    Tokens are decoded together with the piece before them, since a tokenizer's spaces depend on the neighbouring token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._context = 0  # index of the first token that is decoded again as context
        self._emitted = 0  # tokens before this index are in the text already
        self._retry_at = 0  # the pending tokens are decoded again once there are this many tokens

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
                # No character has this many tokens. Decoding a long run again at each token would take quadratic time.
                self._retry_at = len(self._ids) + (len(self._ids) - self._emitted) // _TOKENS_OF_CHARACTER
        return "".join(pieces)

    def finish(self) -> str:
        """The remaining text, with replacement characters for bytes that never completed a character."""
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
    """Ends the text before a stop string, and holds back text that may become the start of one.

    The stop string that is completed first decides, however the text is cut into pieces. Each character is compared
    once or twice with each stop string, whatever its length (the search of Knuth, Morris and Pratt).
    """

    def __init__(self, strings: tuple[str, ...]) -> None:
        self.reached = False
        self._held = ""
        self._searches = [_Search(stop) for stop in strings]

    def add(self, text: str) -> str:
        """The part of the text, held-back text included, that cannot belong to a stop string any more."""
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
        """The text held back, when no more text follows."""
        held, self._held = self._held, ""
        return held


class _Search:
    """Searches for one string in a text that arrives character by character."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0  # how many leading characters of the stop string the text ends with
        self._shorter = [0]  # for each prefix of the stop string, the length of its longest proper prefix that ends it
        for character in stop[1:]:
            self._shorter.append(self._next(self._shorter[-1], character))

    def advance(self, character: str) -> bool:
        """Consume the text's next character; return whether the stop string is complete."""
        self.matched = self._next(self.matched, character)
        return self.matched == len(self.stop)

    def _next(self, matched: int, character: str) -> int:
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched - 1]
        return matched + (self.stop[matched] == character)
