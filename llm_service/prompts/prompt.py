"""Converts prompts to token ids, exactly as the checkpoint's processor does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template
from visionsplit.errors import InvalidPromptError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid

from llm_service.prompts.literal_text import LiteralText
from llm_service.prompts.tokenizer_files import chat_template, load_tokenizer
from llm_service.prompts.tokenizing import Tokenizing


@dataclass(frozen=True)
class TextPrompt:
    """A finished prompt that contains the placeholder where each image belongs."""

    text: str


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; each `None` among its parts stands for the next image."""

    role: str
    parts: tuple[str | None, ...]


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, oldest turn first."""

    turns: tuple[Turn, ...]


Prompt = TextPrompt | ChatPrompt


class PromptEncoder:
    """The checkpoint's tokenizer and chat template, and its family's way to write images in a prompt."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the tokenizer, but no weights.

        Raises:
            CheckpointError: there is no tokenizer, or it does not know the vision token.
        """
        self.tokenizer = load_tokenizer(checkpoint)
        self._template = chat_template(checkpoint, self.tokenizer)
        self._images = checkpoint.family.prompt_images(checkpoint, self.tokenizer)
        self.placeholder: str = self._images.placeholder
        self.image_token_id: int = self._images.token_id
        self._vocabulary_size: int = checkpoint.config.text_config.vocab_size
        self._literal = LiteralText(self.tokenizer, also=self.placeholder)
        self._tokenizing = Tokenizing(self.tokenizer)

    def encode(self, prompt: Prompt, grids: Sequence[TileGrid], *, max_tokens: int) -> tuple[int, ...]:
        """Token ids of a prompt, with one image token for each run of each image. Thread-safe.

        Hugging Face's processor repeats the image token before it tokenises. Since that is a token by itself, the text
        around it gives the same ids. The whole prompt is tokenised at once, because the text around an image may share
        a token with the prompt's. In a conversation, only the chat template writes special tokens; one that a caller's
        text spells is ordinary text.

        Raises:
            InvalidPromptError: the prompt is empty, the template refuses it, or it does not have one placeholder for
                each image.
            PromptTooLongError: the prompt has more than `max_tokens` tokens.
        """
        if isinstance(prompt, TextPrompt):
            text = self._with_images(prompt.text, grids)
            ids = self._tokenizing.ids(text, add_special_tokens=True, most=max_tokens)
        else:
            text = self._with_images(self._render(prompt, len(grids)), grids)
            # The processor does the same when it renders and tokenises in one call.
            bos = self.tokenizer.bos_token
            add = bos is None or not text.startswith(bos)
            encode = self._literal.encode if self._literal.has_marks(text) else self._tokenizing.ids
            ids = encode(text, add_special_tokens=add, most=max_tokens)
        found = ids.count(self.image_token_id)
        runs = sum(self._images.expand(grid).count(self._images.token) for grid in grids)
        if found != runs:
            raise InvalidPromptError(
                f"prompt has {found} image tokens {self._images.token!r}; its {len(grids)} images have {runs}"
            )
        if not ids:
            raise InvalidPromptError("prompt is empty")
        # The engine uses ids above the vocabulary for vision tokens; a tokenizer may have more ids than the model.
        if max(ids) >= self._vocabulary_size:
            raise InvalidPromptError(f"prompt holds token {max(ids)}, which the model does not know")
        return tuple(ids)

    def _with_images(self, text: str, grids: Sequence[TileGrid]) -> str:
        """The text with each placeholder replaced by what stands for its image."""
        before, *after = text.split(self.placeholder)
        if len(after) != len(grids):
            raise InvalidPromptError(
                f"prompt has {len(after)} image placeholders {self.placeholder!r} for {len(grids)} images"
            )
        images = map(self._images.expand, grids)
        return before + "".join(part for pair in zip(images, after, strict=True) for part in pair)

    def _render(self, prompt: ChatPrompt, num_images: int) -> str:
        """The rendered prompt of a conversation, with marks where a caller's text spells special tokens."""
        parts = [part for turn in prompt.turns for part in turn.parts]
        if not prompt.turns:
            raise InvalidPromptError("conversation is empty")
        if parts.count(None) != num_images:
            raise InvalidPromptError(f"conversation has {parts.count(None)} image parts for {num_images} images")
        messages = [
            {"role": self._literal.mark(turn.role), "content": [self._content(part) for part in turn.parts]}
            for turn in prompt.turns
        ]
        if self._template is None:
            raise InvalidPromptError("the checkpoint has no chat template; send a finished prompt")
        try:
            (text,), _ = render_jinja_template(
                [messages],
                chat_template=self._template,
                add_generation_prompt=True,
                **self.tokenizer.special_tokens_map,
            )
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            reason = self._literal.unmark(str(error))
            raise InvalidPromptError(f"the chat template refuses this conversation: {reason}") from error
        return str(text)

    def _content(self, part: str | None) -> dict[str, Any]:
        return {"type": "image"} if part is None else {"type": "text", "text": self._literal.mark(part)}
