"""A checkpoint's tokenizer for several threads at once, with a limit on the number of tokens."""

import threading

from transformers import PreTrainedTokenizerBase
from visionsplit.errors import PromptTooLongError


class Tokenizing:
    """Converts text to token ids. Thread-safe; other Python threads run while a fast tokenizer works."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special_tokens_are_text: bool = False) -> None:
        """Take over a tokenizer. Its settings for truncation, padding and special tokens must not be changed later,
        since the library refuses a change while another thread tokenises."""
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        self._slow = threading.Lock()  # tokenizers written in Python serve one thread at a time
        if self._backend is not None:
            self._backend.no_truncation()
            self._backend.no_padding()
            self._backend.encode_special_tokens = special_tokens_are_text or tokenizer.split_special_tokens

    def ids(self, text: str, *, add_special_tokens: bool, most: int) -> list[int]:
        """The same ids as the library's own call returns.

        Raises:
            PromptTooLongError: the text has more than `most` tokens.
        """
        if self._backend is None:
            with self._slow:
                ids: list[int] = self._tokenizer(text, add_special_tokens=add_special_tokens, verbose=False).input_ids
            _check(len(ids), most)
            return ids
        # Only the library's calls for batches release the interpreter lock.
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        _check(len(encoding), most)
        ids = encoding.ids
        return ids


def _check(tokens: int, most: int) -> None:
    if tokens > most:
        raise PromptTooLongError(f"the prompt's text has {tokens} tokens; a replica holds {most}")
