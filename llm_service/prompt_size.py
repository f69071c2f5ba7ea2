"""Refuses prompts that cannot fit, before anything walks through their text, renders it or tokenises it."""

from collections.abc import Iterator

from visionsplit.errors import InvalidPromptError, PromptTooLongError

from llm_service.fewest_tokens import FewestTokens
from llm_service.prompt import Prompt, TextPrompt

# Tokenising 16 Ki characters takes some 40 ms at most.
_SHORT_CHARACTERS = 16 * 1024


class PromptSize:
    """What a prompt may have: as many characters as a full context of the longest token, or fewer where the operator
    says so, and no more text than the context's tokens can stand for."""

    def __init__(self, fewest: FewestTokens, *, context_length: int, max_characters: int) -> None:
        self._fewest = fewest
        self.context_length = context_length
        self._max_characters = min(max_characters, context_length * fewest.longest_token)

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
        return characters <= _SHORT_CHARACTERS


def _texts(prompt: Prompt) -> Iterator[str]:
    if isinstance(prompt, TextPrompt):
        yield prompt.text
        return
    for turn in prompt.turns:
        yield turn.role
        yield from (part for part in turn.parts if part is not None)
