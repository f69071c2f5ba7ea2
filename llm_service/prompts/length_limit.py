"""Refuses prompts that cannot fit before any code iterates over, renders or tokenises their text."""

from collections.abc import Iterator

from visionsplit.errors import InvalidPromptError, PromptTooLongError
from visionsplit.receiving.prompts import MAX_PARTS, MAX_TURNS

from llm_service.prompts.prompt import Prompt, TextPrompt
from llm_service.prompts.token_lower_bound import FewestTokens

# A prompt of this length is tokenised in about 20 ms. Each turn or part takes as long as this many characters.
_SHORT_CHARACTERS = 8 * 1024
_CHARACTERS_OF_PART = 64
# Bytes that a serialised message has for each turn and part, besides their text.
_BYTES_OF_PART = 32
_MAX_BYTES_OF_CHARACTER = 4


class PromptSize:
    """Limits on a prompt's text.

    A prompt may have as many characters as a context filled with the longest token, or fewer if the operator sets a
    limit, and no more text than the context's tokens can represent.
    """

    def __init__(self, fewest: FewestTokens, *, context_length: int, max_characters: int) -> None:
        self._fewest = fewest
        self.context_length = context_length
        most = context_length * fewest.longest_token
        self._max_characters = min(max_characters, most)
        # Serialised messages larger than this are refused before they are parsed.
        self.max_bytes = min(most, max_characters * _MAX_BYTES_OF_CHARACTER) + (MAX_TURNS + MAX_PARTS) * _BYTES_OF_PART

    def check(self, prompt: Prompt) -> bool:
        """Return whether the prompt is short; short prompts are tokenised apart from long ones.

        All of a caller's text counts, including text that a chat template would leave out.

        Raises:
            InvalidPromptError: the prompt has more characters than are accepted.
            PromptTooLongError: the text has more tokens than the context, however it is cut into tokens.
        """
        texts = list(_texts(prompt))
        characters = sum(map(len, texts))
        if characters > self._max_characters:
            raise InvalidPromptError(
                f"the prompt has {characters} characters; at most {self._max_characters} are accepted"
            )
        # Joined, since neighbouring parts may share a token.
        fewest = self._fewest.of("".join(texts))
        if fewest > self.context_length:
            raise PromptTooLongError(
                f"the prompt's {characters} characters are at least {fewest} tokens; "
                f"a replica holds {self.context_length}"
            )
        return characters + len(texts) * _CHARACTERS_OF_PART <= _SHORT_CHARACTERS


def _texts(prompt: Prompt) -> Iterator[str]:
    if isinstance(prompt, TextPrompt):
        yield prompt.text
        return
    for turn in prompt.turns:
        yield turn.role
        yield from (part for part in turn.parts if part is not None)
