"""The names of tensors in files that different versions of the transformers library have written."""

import re
from collections.abc import Sequence
from typing import TypeAlias

Rules: TypeAlias = Sequence[tuple[re.Pattern[str], str]]  # patterns, and what replaces the name that they match

# Of models whose parts are called as LLaVA's. Applied in order after removing a leading "model."; the first match wins.
LLAVA_NAMES: Rules = (
    (re.compile(r"^vision_tower\.(?:vision_model\.)?(.+)$"), r"vision_tower.\1"),
    (re.compile(r"^(?:language_model\.)?lm_head\.(.+)$"), r"language_model.lm_head.\1"),
    (re.compile(r"^language_model\.(?:model\.)?(.+)$"), r"language_model.model.\1"),
)


def renamed(key: str, rules: Rules) -> str:
    """A tensor's name without a leading "model.", replaced by the first rule that matches it."""
    key = key.removeprefix("model.")
    for pattern, replacement in rules:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    return key
