"""Refuses prompts that cannot fit, before anything walks through their text, renders it or tokenises it."""

from collections.abc import Iterator

from visionsplit.errors import InvalidPromptError, PromptTooLongError
from visionsplit.receiving.prompts import MAX_PARTS, MAX_TURNS

from llm_service.prompts.fewest_tokens import FewestTokens
from llm_service.prompts.prompt import Prompt, TextPrompt

# A prompt whose text is tokenised within some 20 ms. A turn or part takes as long as so many characters.
_SHORT_CHARACTERS = 8 * 1024
_CHARACTERS_OF_PART = 64
# Of a message for each turn and part, beside their text.
_BYTES_OF_PART = 32
_MAX_BYTES_OF_CHARACTER = 4


class PromptSize:
    """What a prompt may have: as many characters as a full context of the longest token, or fewer where the operator
    says so, and no more text than the context's tokens can stand for."""

    def __init__(self, fewest: FewestTokens, *, context_length: int, max_characters: int) -> None:
        self._fewest = fewest
        self.context_length = context_length
        most = context_length * fewest.longest_token
        self._max_characters = min(max_characters, most)
        # Of a prompt's message: larger ones are refused before they are parsed.
        self.max_bytes = min(most, max_characters * _MAX_BYTES_OF_CHARACTER) + (MAX_TURNS + MAX_PARTS) * _BYTES_OF_PART

    def check(self, prompt: Prompt) -> bool:
        """Whether the prompt is a short one, which is tokenised apart from long ones. All of a caller's text counts,
        also what a chat template would leave out.

        Raises:
            InvalidPromptError: more characters than are accepted.
            PromptTooLongError: more tokens than the context has, however the text is cut into tokens.
        """
        texts = list(_texts(prompt))
        characters = sum(map(len, texts))
        if characters > self._max_characters:
            raise InvalidPromptError(
                f"the prompt has {characters} characters; at most {self._max_characters} are accepted"
            )
        # In one piece, as neighbouring parts may share a token.
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
