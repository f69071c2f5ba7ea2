"""How an encoder service is set up. Read once at the edge, passed down whole."""

import math
from dataclasses import dataclass, field

import torch
from visionsplit.images import ImageLimits
from visionsplit.model.dtypes import DATA_TYPES_OF
from visionsplit.network.addresses import check_address, split_host_port
from visionsplit.network.transport import (
    DEFAULT_CHUNK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_IMAGE_REQUEST_BYTES,
    MIN_CHUNK_BYTES,
)
from visionsplit.options.compression import KEEP_ALL, Compression
from visionsplit.options.data_types import DataType
from visionsplit.security.client import ClientSecurity
from visionsplit.security.server import ServerSecurity
from visionsplit.telemetry.config import TelemetryConfig

from encoder_service import defaults
from encoder_service.caching.tokens import CacheLimits
from encoder_service.compression import compose
from encoder_service.device.queue import BatchLimits

_DEVICE_TYPES = ("cpu", "cuda")


class ConfigError(ValueError):
    """A setting that is out of its range, or that this machine or the checkpoint cannot honour."""


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of one encoder service.

    Raises:
        ConfigError: a setting out of its range.
        InvalidCompressionError: the default compression names something that does not exist.
    """

    model: str  # a LLaVA-NeXT checkpoint: local folder or hub id
    revision: str | None = None  # of a hub id
    text_tower: str | None = None  # the CLIP checkpoint that the vision tower comes from: folder or hub id
    text_tower_revision: str | None = None  # of that hub id
    listen: str = defaults.LISTEN
    llm: str | None = None  # addresses of LLM services, with commas between; None leaves Generate without one
    device: torch.device | None = None  # None: a GPU if there is one
    dtype: torch.dtype | None = None  # None: float32 on the CPU, the checkpoint's type on a GPU
    batch: BatchLimits = field(
        default_factory=lambda: BatchLimits(
            defaults.MAX_BATCH_TILES, defaults.MAX_BATCH_WAIT_SECONDS, defaults.MAX_QUEUED_TILES
        )
    )
    image: ImageLimits = field(default_factory=ImageLimits)
    image_threads: int = defaults.IMAGE_THREADS  # that decode and cut
    max_decoding_bytes: int = defaults.MAX_DECODING_BYTES  # of memory that they take together
    cache: CacheLimits = field(default_factory=CacheLimits)
    max_images: int = defaults.MAX_IMAGES  # of one request
    max_request_bytes: int = MAX_IMAGE_REQUEST_BYTES
    receive_seconds: float = defaults.RECEIVE_SECONDS  # in which a request must arrive completely
    max_calls: int = defaults.MAX_CALLS  # at once; more are refused
    caller_share: float = (
        defaults.CALLER_SHARE
    )  # of the calls and of the tiles that one caller may have, so that others find room
    chunk_bytes: int = DEFAULT_CHUNK_BYTES  # most payload of one message of tokens
    default_compression: Compression = field(default_factory=lambda: Compression(KEEP_ALL))
    default_data_type: DataType | None = None  # None: the vision tower's own
    grace_seconds: float = defaults.GRACE_SECONDS  # how long calls may go on after the service was told to stop
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    security: ServerSecurity = field(default_factory=ServerSecurity)
    llm_security: ClientSecurity = field(default_factory=ClientSecurity)  # of the connection to the LLM service

    def __post_init__(self) -> None:
        if compose(self.default_compression).reads_text and self.text_tower is None:
            raise ConfigError(f"method {self.default_compression.method!r} looks at the prompt; it needs a text_tower")
        if self.text_tower_revision is not None and self.text_tower is None:
            raise ConfigError("text_tower_revision is given without text_tower")
        if not MIN_CHUNK_BYTES <= self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise ConfigError(f"chunk_bytes is {self.chunk_bytes}; {MIN_CHUNK_BYTES} to {MAX_CHUNK_BYTES} are allowed")
        if not 0 < self.max_request_bytes <= MAX_IMAGE_REQUEST_BYTES:
            raise ConfigError(
                f"max_request_bytes is {self.max_request_bytes}; 1 to {MAX_IMAGE_REQUEST_BYTES} are allowed"
            )
        try:
            split_host_port(self.listen)
        except ValueError as error:
            raise ConfigError(f"listen: {error}") from None
        if self.device is not None and self.device.type not in _DEVICE_TYPES:
            raise ConfigError(f"device is {str(self.device)!r}; cpu, cuda or cuda:N is needed")
        for name, seconds in (("max_batch_wait", self.batch.max_wait_seconds), ("grace", self.grace_seconds)):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigError(f"{name} is {seconds} seconds; a finite number from 0 on is needed")
        if not (math.isfinite(self.receive_seconds) and self.receive_seconds > 0):
            raise ConfigError(f"receive_timeout is {self.receive_seconds} seconds; a finite number above 0 is needed")
        for address in self.llm_addresses:
            try:
                check_address(address)
            except ValueError as error:
                raise ConfigError(f"llm: {error}") from None
        if len(set(self.llm_addresses)) < len(self.llm_addresses):
            raise ConfigError(f"llm is {self.llm!r}; each address once is needed")
        if not 0 < self.caller_share <= 1:
            raise ConfigError(f"caller_share is {self.caller_share}; a number in (0, 1] is needed")
        if self.cache.memory_bytes < 0:
            raise ConfigError(f"cache_bytes is {self.cache.memory_bytes}; 0, which is none, or more is needed")
        positive = {
            "image_threads": self.image_threads,
            "max_decoding_bytes": self.max_decoding_bytes,
            "max_images": self.max_images,
            "max_calls": self.max_calls,
            "max_batch_tiles": self.batch.max_batch_tiles,
            "max_queued_tiles": self.batch.max_queued_tiles,
            "max_pixels": self.image.max_pixels,
            "cache_dir_bytes": self.cache.folder_bytes,
        }
        for name, value in positive.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; at least 1 is needed")

    @property
    def llm_addresses(self) -> tuple[str, ...]:
        """Those of the LLM services."""
        return () if self.llm is None else tuple(self.llm.split(","))

    def resolve_device(self) -> torch.device:
        """The device to use on this machine.

        Raises:
            ConfigError: the machine has no such device.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.device is None:
            return torch.device("cuda" if gpus else "cpu")
        if self.device.type == "cuda" and (self.device.index or 0) >= gpus:
            raise ConfigError(f"device is {str(self.device)!r}; PyTorch finds {gpus} CUDA devices on this machine")
        return self.device

    def check_room_for_image(self, most_tiles: int) -> None:
        """
        Raises:
            ConfigError: an image of `most_tiles` could never be let in.
        """
        if self.batch.max_queued_tiles < most_tiles:
            raise ConfigError(
                f"max_queued_tiles is {self.batch.max_queued_tiles}; one image of this checkpoint takes {most_tiles}"
            )

    def resolve_data_type(self, dtype: torch.dtype) -> DataType:
        """The wire format for requests that name none."""
        return self.default_data_type or DATA_TYPES_OF[dtype]
