"""The name under which an image's tokens are cached: it covers everything that decides a single bit of them.

Tokens are cached in the order in which they were picked. Where a smaller ratio keeps a prefix of what a larger one
keeps, one entry serves both, and the ratio is left out of the name. At ratio 1 every token is kept, so all methods
share an entry.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from visionsplit.families.encoder_half import EncoderHalf
from visionsplit.options.data_types import DataType

from encoder_service.compression import Composition

_FORMAT = 3  # of entries, keys and image decoding; after a change of this number, older entries are not found
_LIBRARIES = ("torch", "transformers", "pillow", "numpy")  # another version may compute other last bits


@dataclass(frozen=True)
class TokensKey:
    """The cache keys of one request's tokens of one image."""

    entry: str  # 64 hexadecimal digits: the name of the cache entry
    request: str  # with the ratio: equal for two requests whose whole answer is equal


def serves_smaller(composition: Composition) -> bool:
    """Whether the tokens kept at one ratio contain those that any smaller ratio would keep."""
    if composition.retention_ratio in (None, 1):
        return False
    budget = composition.budget
    if budget.adaptive or (budget.whole_image and not budget.pooled):
        return False
    return composition.quotas_only or (composition.nested and not composition.selection.own_counts)


def tokens_key(
    image_digest: str, encoder: str, composition: Composition, data_type: DataType, *, alone: bool = True
) -> TokensKey:
    """The keys for an image, given the SHA-256 of its bytes and the vision half's `encoder_identity`.

    `alone` is whether it is the request's only image, where that decides how the image is cut.
    """
    facts = [_FORMAT, image_digest, encoder, composition.layout, data_type.value, _choice(composition), alone]
    ratio = composition.retention_ratio
    kept = facts if serves_smaller(composition) else [*facts, ratio]
    return TokensKey(_digest(kept), _digest([*facts, ratio, composition.quotas_only]))


def image_digest(data: bytes) -> str:
    """SHA-256: two different images with one digest cannot be constructed, so no caller gets another image's tokens."""
    return hashlib.sha256(data).hexdigest()


def encoder_identity(fingerprint: str, half: EncoderHalf) -> str:
    """A digest of what decides the tokens' bits besides the request: weights, settings, types, device, software."""
    device = torch.cuda.get_device_name(half.device) if half.device.type == "cuda" else half.device.type
    software = {name: version(name) for name in ("visionsplit", *_LIBRARIES)}
    return _digest([fingerprint, dict(half.identity), str(half.dtype), device, software])


def _choice(composition: Composition) -> dict[str, Any]:
    """Everything but the ratio that decides which tokens are kept."""
    if composition.retention_ratio == 1:
        return {}
    named = {"budget": composition.budget.name, "parameters": dict(composition.parameters)}
    if composition.quotas_only:
        return {"quotas": named}
    merging = composition.merging.name if composition.merging is not None else None
    return {
        **named,
        "score": composition.score.name,
        "selection": composition.selection.name,
        "merging": merging,
    }


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
