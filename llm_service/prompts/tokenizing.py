"""A checkpoint's tokenizer as the service uses it: from several threads at once, and never for more than fits."""

import threading

from transformers import PreTrainedTokenizerBase
from visionsplit.errors import PromptTooLongError


class Tokenizing:
    """Text to ids. Thread-safe; while a fast tokenizer works, other Python threads run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens_are_text: bool = False) -> None:
        """Take a tokenizer over: its settings for truncation, padding and special tokens must not be changed any more,
        since the library refuses that while another thread tokenises."""
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._slow = threading.Lock()  # one thread at a time for tokenizers written in Python
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = special_tokens_are_text or tokenizer.split_special_tokens

    def ids(self, text: str, *, add_special_tokens: bool, most: int) -> list[int]:
        """The same ids as those of the library's own call.

        Raises:
            PromptTooLongError: there are more than `most`.
        """
        if self._backend is None:
            with self._slow:
                ids: list[int] = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False).input_ids
            _check(len(ids), most)
            return ids
        # Of the library's calls only those for batches release Python's lock.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        _check(len(encoding), most)
        ids = encoding.ids
        return ids


def _check(tokens: int, most: int) -> None:
    if tokens > most:
        raise PromptTooLongError(f"the prompt's text has {tokens} tokens; a replica holds {most}")
