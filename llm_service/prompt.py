"""Prompts to token ids, exactly as the checkpoint's processor tokenises them."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import LlavaNextProcessor
from visionsplit.checkpoint import Checkpoint, CheckpointError
from visionsplit.errors import InvalidPromptError


@dataclass(frozen=True)
class TextPrompt:
    """A finished prompt, with the placeholder where each image belongs."""

    text: str


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; `None` among its parts stands for the next image."""

    role: str
    parts: tuple[str | None, ...]


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation, oldest turn first."""

    turns: tuple[Turn, ...]


Prompt = TextPrompt | ChatPrompt


class PromptEncoder:
    """The checkpoint's tokenizer and chat template."""

    def __init__(self, checkpoint: Checkpoint, *, max_characters: int) -> None:
        """Load the tokenizer; no weights.

        Raises:
            CheckpointError: no processor or tokenizer, or its image token is not the configuration's.
        """
        self._processor = _load_processor(checkpoint)
        self.tokenizer = self._processor.tokenizer
        self.placeholder: str = self._processor.image_token
        self.image_token_id: int = self._processor.image_token_id
        self._vocabulary_size: int = checkpoint.config.text_config.vocab_size
        self._max_characters = max_characters
        if self.image_token_id != checkpoint.config.image_token_id:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has image token {self.image_token_id} in its tokenizer and "
                f"{checkpoint.config.image_token_id} in its configuration"
            )

    def encode(self, prompt: Prompt, num_images: int) -> tuple[int, ...]:
        """Token ids with the image token once for each image.

        Hugging Face's processor repeats the placeholder before it tokenises; as the placeholder is a token of its own,
        the text around it comes out alike.

        Raises:
            InvalidPromptError: no text, a conversation the template refuses, or not one placeholder for each image.
        """
        text, add_special_tokens = (
            (prompt.text, True) if isinstance(prompt, TextPrompt) else self._render(prompt, num_images)
        )
        if len(text) > self._max_characters:
            raise InvalidPromptError(f"prompt has {len(text)} characters; at most {self._max_characters} are taken")
        ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens).input_ids
        found = ids.count(self.image_token_id)
        if found != num_images:
            raise InvalidPromptError(
                f"prompt has {found} image placeholders {self.placeholder!r} for {num_images} images"
            )
        if not ids:
            raise InvalidPromptError("prompt is empty")
        # The engine gives ids above the vocabulary to vision tokens; a tokenizer may have more ids than the model.
        if max(ids) >= self._vocabulary_size:
            raise InvalidPromptError(f"prompt holds token {max(ids)}, which the model does not know")
        return tuple(ids)

    def _render(self, prompt: ChatPrompt, num_images: int) -> tuple[str, bool]:
        """The prompt of a conversation, and whether the tokenizer still has to add its special tokens."""
        parts = [part for turn in prompt.turns for part in turn.parts]
        if not prompt.turns:
            raise InvalidPromptError("conversation is empty")
        if parts.count(None) != num_images:
            raise InvalidPromptError(f"conversation has {parts.count(None)} image parts for {num_images} images")
        if any(part is not None and self.placeholder in part for part in parts):
            raise InvalidPromptError(f"text of a conversation must not hold the image placeholder {self.placeholder!r}")
        messages = [{"role": turn.role, "content": [_content(part) for part in turn.parts]} for turn in prompt.turns]
        try:
            text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (TemplateError, LookupError, TypeError, ValueError) as error:
            raise InvalidPromptError(f"the chat template refuses this conversation: {error}") from error
        # As the processor does when it renders and tokenises in one go.
        bos = self.tokenizer.bos_token
        return text, bos is None or not text.startswith(bos)


def _load_processor(checkpoint: Checkpoint) -> LlavaNextProcessor:
    try:
        processor: LlavaNextProcessor = LlavaNextProcessor.from_pretrained(
            checkpoint.source, revision=checkpoint.revision
        )
    # What the library raises depends on which of the files is missing or damaged.
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"checkpoint {checkpoint.name!r} has no usable processor and tokenizer: {reason}"
        ) from error
    return processor


def _content(part: str | None) -> dict[str, Any]:
    return {"type": "image"} if part is None else {"type": "text", "text": part}
