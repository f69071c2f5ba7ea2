"""Keeps special tokens that callers write, such as "<image>" or "</s>", ordinary text.

The library's tokenizers look for special tokens in the whole rendered prompt, including callers' text. This module
replaces them by marks in callers' text before the chat template sees it. Afterwards the special tokens that the
template wrote are renamed to aliases, which a copy of the tokenizer knows as special tokens, and callers' marks are
replaced by the original names, which that copy reads as text.
"""

import copy
import re
import secrets
from collections.abc import Iterable

from transformers import AddedToken, PreTrainedTokenizerBase
from visionsplit.errors import InvalidPromptError

from llm_service.prompts.tokenizing import Tokenizing


class LiteralText:
    """Marks special tokens in callers' text, and tokenises prompts that contain such marks."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, also: str = "") -> None:
        """`also` is a further text that is not to be special in callers' text: the placeholder of images, where that is
        no token."""
        # Only digits, which no filter of a template changes, and random, so that a caller cannot write a mark.
        lot = str(secrets.randbits(64))
        special = {token.content: (id, token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        names = [*special, *([also] if also and also not in special else [])]
        self._names = _any_of(special)
        self._spelled = _any_of(names)
        self._marks = {name: f"\ue000{lot}\ue001{index}\ue000" for index, name in enumerate(names)}
        self._names_by_mark = {mark: name for name, mark in self._marks.items()}
        self._by_mark = _any_of(self._names_by_mark)
        self._aliases = {name: f"\ue001{lot}\ue000{index}\ue001" for index, name in enumerate(special)}
        self._ids: dict[int, int] = {}  # from the id of each alias to the id of its special token
        self._tokenizing: Tokenizing | None = None
        if not tokenizer.is_fast:
            return
        tokenizer = copy.deepcopy(tokenizer)
        for name, (id, token) in special.items():
            alias = AddedToken(
                self._aliases[name], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False
            )
            tokenizer.add_tokens([alias])
            self._ids[tokenizer.convert_tokens_to_ids(alias.content)] = id
        self._tokenizing = Tokenizing(tokenizer, special_tokens_are_text=True)

    def mark(self, text: str) -> str:
        """A caller's text with each special token replaced by its mark.

        Raises:
            InvalidPromptError: the text contains a special token, and this kind of tokenizer cannot read it as text.
        """
        found = self._spelled.search(text)
        if found is not None and self._tokenizing is None:
            raise InvalidPromptError(f"this model's tokenizer cannot read {found[0]!r} as text; leave it out")
        return self._spelled.sub(lambda match: self._marks[match[0]], text)

    def has_marks(self, text: str) -> bool:
        return self._by_mark.search(text) is not None

    def unmark(self, text: str) -> str:
        """The text with each mark replaced by its special token."""
        return self._by_mark.sub(lambda match: self._names_by_mark[match[0]], text)

    def encode(self, marked: str, *, add_special_tokens: bool, most: int) -> list[int]:
        """Token ids of a rendered prompt with marks in callers' text; see `Tokenizing.ids`."""
        assert self._tokenizing is not None  # without it, `mark` refuses the text, so that there are no marks
        text = self.unmark(self._names.sub(lambda match: self._aliases[match[0]], marked))
        ids = self._tokenizing.ids(text, add_special_tokens=add_special_tokens, most=most)
        return [self._ids.get(id, id) for id in ids]


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches the longest of these words; nothing if there are none."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
