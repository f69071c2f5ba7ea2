"""The events of a request's images, in the order in which they occur."""

from dataclasses import dataclass

from visionsplit.grid import TileGrid
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import Positions

from encoder_service.caching.tokens import CacheUse


@dataclass(frozen=True)
class BudgetsKnown:
    """The first event of each image: how many tokens each tile will keep."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    feature_size: int  # width of the image's tokens
    quotas: list[int] | None = None  # how many tokens of each tile pruning in the language model keeps


@dataclass(frozen=True)
class TokensReady:
    """The kept tokens of some tiles, at least one."""

    image_index: int
    features: TokenTensor  # [K, Dv]
    positions: Positions  # [K, 3]


@dataclass(frozen=True)
class ImageDone:
    """The last event of each image."""

    image_index: int
    grid: TileGrid
    budgets: list[int]
    wire_bytes: int  # features, scales and positions
    preprocess_seconds: float
    queue_seconds: float
    encode_seconds: float
    first_chunk_seconds: float
    total_seconds: float
    device_seconds: float = 0.0  # from the call's start until its first tile entered the vision tower
    cache: CacheUse = CacheUse.OFF


Event = BudgetsKnown | TokensReady | ImageDone
