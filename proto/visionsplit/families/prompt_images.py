"""What stands for images in a prompt."""

from abc import ABC, abstractmethod

from transformers import PreTrainedTokenizerBase

from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid
from visionsplit.model.stored_model import CheckpointError

_USUAL = "<image>"  # the vision token of families whose tokenizers have no name for it


class PromptImages(ABC):
    """How a checkpoint's prompts are written where images belong."""

    placeholder: str  # what a prompt contains in place of each image
    token: str  # the vision token; `expand` has it once for each run
    token_id: int

    @abstractmethod
    def expand(self, grid: TileGrid) -> str:
        """The text that replaces an image's placeholder: the vision token once for each run, and markers around."""


class SinglePlaceholder(PromptImages):
    """The vision token itself is the placeholder, and an image is one run without markers."""

    attribute = "image_token"  # of a tokenizer that knows the vision token by this name

    def __init__(self, checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Raises:
            CheckpointError: the tokenizer does not know the configuration's image token, or has another one.
        """
        self.token_id = checkpoint.settings.image_token_id
        self.token = self.placeholder = token_text(checkpoint, tokenizer, self.token_id)
        own = getattr(tokenizer, self.attribute, _USUAL)
        if own != self.token and own in tokenizer.get_vocab():
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has image token {tokenizer.convert_tokens_to_ids(own)} in its "
                f"tokenizer and {self.token_id} in its configuration"
            )

    def expand(self, grid: TileGrid) -> str:
        return self.token


def token_text(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text of a token that the configuration names.

    Raises:
        CheckpointError: the tokenizer does not know it.
    """
    token = tokenizer.convert_ids_to_tokens(token_id)
    if not isinstance(token, str) or not token:
        raise CheckpointError(f"the tokenizer of checkpoint {checkpoint.name!r} has no image token {token_id}")
    return token
