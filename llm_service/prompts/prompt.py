"""Converts prompts to token ids, exactly as the checkpoint's processor does."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import LlavaNextProcessor
from visionsplit.errors import InvalidPromptError
from visionsplit.model.checkpoint import Checkpoint, CheckpointError

from llm_service.prompts.literal_text import LiteralText
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
    """The checkpoint's tokenizer and chat template."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load the tokenizer, but no weights.

        Raises:
            CheckpointError: there is no processor or tokenizer, or its image token differs from the configuration's.
        """
        self._processor = _load_processor(checkpoint)
        self.tokenizer = self._processor.tokenizer
        self.placeholder: str = self._processor.image_token
        self.image_token_id: int = self._processor.image_token_id
        self._vocabulary_size: int = checkpoint.config.text_config.vocab_size
        self._literal = LiteralText(self.tokenizer)
        self._tokenizing = Tokenizing(self.tokenizer)
        if self.image_token_id != checkpoint.config.image_token_id:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has image token {self.image_token_id} in its tokenizer and "
                f"{checkpoint.config.image_token_id} in its configuration"
            )

    def encode(self, prompt: Prompt, num_images: int, *, max_tokens: int) -> tuple[int, ...]:
        """Token ids of a prompt, with one image token for each image. Thread-safe.

        Hugging Face's processor repeats the placeholder before it tokenises. Since the placeholder is a token by
        itself, the text around it gives the same ids. In a conversation, only the chat template writes special tokens;
        one that a caller's text spells is ordinary text.

        Raises:
            InvalidPromptError: the prompt is empty, the template refuses it, or it does not have one placeholder for
                each image.
            PromptTooLongError: the prompt has more than `max_tokens` tokens.
        """
        if isinstance(prompt, TextPrompt):
            ids = self._tokenizing.ids(prompt.text, add_special_tokens=True, most=max_tokens)
        else:
            text = self._render(prompt, num_images)
            # The processor does the same when it renders and tokenises in one call.
            bos = self.tokenizer.bos_token
            add = bos is None or not text.startswith(bos)
            encode = self._literal.encode if self._literal.has_marks(text) else self._tokenizing.ids
            ids = encode(text, add_special_tokens=add, most=max_tokens)
        found = ids.count(self.image_token_id)
        if found != num_images:
            raise InvalidPromptError(
                f"prompt has {found} image placeholders {self.placeholder!r} for {num_images} images"
            )
        if not ids:
            raise InvalidPromptError("prompt is empty")
        # The engine uses ids above the vocabulary for vision tokens; a tokenizer may have more ids than the model.
        if max(ids) >= self._vocabulary_size:
            raise InvalidPromptError(f"prompt holds token {max(ids)}, which the model does not know")
        return tuple(ids)

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
        try:
            text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            reason = self._literal.unmark(str(error))
            raise InvalidPromptError(f"the chat template refuses this conversation: {reason}") from error
        return text

    def _content(self, part: str | None) -> dict[str, Any]:
        return {"type": "image"} if part is None else {"type": "text", "text": self._literal.mark(part)}


def _load_processor(checkpoint: Checkpoint) -> LlavaNextProcessor:
    try:
        processor: LlavaNextProcessor = LlavaNextProcessor.from_pretrained(
            checkpoint.source, revision=checkpoint.revision
        )
    # The type of the library's exception depends on which file is missing or damaged.
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} has no usable processor and tokenizer: {reason}"
        ) from error
    return processor
