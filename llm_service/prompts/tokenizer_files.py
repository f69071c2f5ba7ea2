"""Reads a checkpoint's tokenizer and chat template.

The library's own way is a processor, but processors of families with a video part cannot be loaded without torchvision.
"""

import json

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from visionsplit.families.checkpoint import Checkpoint, CheckpointError

# From the last to the first that a processor looks at. The tokenizer itself reads chat_template.jinja.
_TEMPLATE_FILES = ("processor_config.json", "chat_template.json")


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """
    Raises:
        CheckpointError: there is no tokenizer, or it is damaged.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.source, revision=checkpoint.revision
        )
    # The type of the library's exception depends on which file is missing or damaged.
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"checkpoint {checkpoint.name!r} has no usable tokenizer: {reason}") from error
    return tokenizer


def chat_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template of conversations that the checkpoint's processor would use; None if there is none.

    Raises:
        CheckpointError: a file that may have it is damaged.
    """
    for name in _TEMPLATE_FILES:
        if not checkpoint.has(name):
            continue
        try:
            template = json.loads(checkpoint.file(name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{name} of checkpoint {checkpoint.name!r} is damaged or incomplete") from error
        if template is not None:
            return _default(template)
    return _default(tokenizer.chat_template)


def _default(template: object) -> str | None:
    """Of several templates by name, the default one."""
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None
