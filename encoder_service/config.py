"""The encoder service's settings, read without PyTorch so that a mistake is reported at once."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from visionsplit.command_line.configuration import Program
from visionsplit.command_line.parser import (
    Kind,
    address,
    at_least,
    member_of,
    milliseconds,
    path,
    positive,
    share,
    unless_empty,
    word,
)
from visionsplit.command_line.security_options import ClientSecuritySettings
from visionsplit.command_line.settings import ConfigError, check, group, setting
from visionsplit.images import ImageLimits
from visionsplit.network.transport import DEFAULT_CHUNK_BYTES, MAX_CHUNK_BYTES, MAX_IMAGE_REQUEST_BYTES, MIN_CHUNK_BYTES
from visionsplit.options.compression import DEFAULT_METHOD, DEFAULT_RATIO, KEEP_ALL, chosen_method
from visionsplit.options.data_types import DataType
from visionsplit.security.client import ClientSecurity
from visionsplit.server.config import ServiceConfig, listening

_model = partial(setting, "model")
_serving = partial(setting, "serving")
_compression = partial(setting, "compression of requests that ask for none")
_limits = partial(setting, "limits")
_cache = partial(setting, "cache of vision tokens")

_one_or_more = at_least(1)
_image_pixels = Kind(
    lambda text: ImageLimits(max_pixels=_one_or_more.convert(text)),
    _one_or_more.accepted,
    "N",
    lambda limits: str(limits.max_pixels),
)


@dataclass(frozen=True)
class BatchLimits:
    """How tiles are gathered for the vision tower."""

    max_batch_tiles: int = _limits(16, _one_or_more, "The most tiles in one forward pass of the vision tower.")
    max_wait_seconds: float = _limits(
        0.002, milliseconds, "The milliseconds that an incomplete batch waits for more tiles.", name="max_batch_wait_ms"
    )
    # Of all images, from before their decoding until they are encoded.
    max_queued_tiles: int = _limits(1024, _one_or_more, "The most tiles that wait for the device.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class CacheLimits:
    """How many vision tokens are kept for images that come again."""

    memory_bytes: int = _cache(
        256 * 2**20,
        at_least(0, metavar="BYTES"),
        "The memory for vision tokens of images that come again, in bytes; 0 keeps none.",
        name="cache_bytes",
    )
    folder: Path | None = _cache(
        None,
        path,
        "The folder in which vision tokens are kept across restarts.",
        name="cache_dir",
        metavar="FOLDER",
        absent="none, and nothing is written",
    )
    folder_bytes: int = _cache(
        4 * 2**30, at_least(1, metavar="BYTES"), "The most bytes kept in that folder.", name="cache_dir_bytes"
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def off(self) -> bool:
        return not self.memory_bytes and self.folder is None


@dataclass(frozen=True)
class EncoderConfig(ServiceConfig):
    """Settings of one encoder service."""

    listen: str = listening("127.0.0.1:50051")
    text_tower: str | None = _model(
        None,
        word,
        "The CLIP checkpoint that the vision tower comes from, for methods that read the prompt.",
        metavar="MODEL",
        absent="none, and such methods are refused",
    )
    text_tower_revision: str | None = _model(
        None, word, "The revision of the text tower's hub id.", metavar="REVISION", absent="the hub's main revision"
    )
    llm: tuple[str, ...] = _serving(
        (),
        address,
        "The LLM services' addresses, with commas between them, or one for each --llm.",
        many=True,
        absent="none, and the encoder only encodes",
    )
    method: str | None = _compression(
        None,
        unless_empty(word),
        "How to choose the vision tokens to keep; docs/methods.md lists the methods. An empty value counts as not "
        "given.",
        metavar="NAME",
        absent=f"{KEEP_ALL}, or {DEFAULT_METHOD} with --retention-ratio",
    )
    retention_ratio: float | None = _compression(
        None,
        unless_empty(share),
        "The share of the vision tokens to keep, above 0 and at most 1. An empty value counts as not given.",
        alias="--ratio",
        absent=f"{DEFAULT_RATIO:g} for methods that need a ratio",
    )
    data_type: DataType | None = _compression(
        None, member_of(DataType), "The number format in which vision tokens are sent.", absent="the vision tower's own"
    )
    batch: BatchLimits = group(BatchLimits)
    image: ImageLimits = _limits(ImageLimits(), _image_pixels, "The most pixels of one image.", name="max_image_pixels")
    image_threads: int = _limits(4, _one_or_more, "The number of threads that decode and crop images.")
    max_decoding_bytes: int = _limits(
        2 * 2**30,
        _one_or_more,
        "The memory in bytes that decoding takes at once. Images wait for it in turns; one image may take three "
        "quarters of it, or all but 512 MiB where that is more, and is refused if it takes more.",
    )
    max_images: int = _limits(16, _one_or_more, "The most images in one request.")
    max_request_bytes: int = _limits(
        MAX_IMAGE_REQUEST_BYTES, at_least(1, most=MAX_IMAGE_REQUEST_BYTES), "The most bytes in one request."
    )
    receive_seconds: float = _limits(
        120.0, positive, "The seconds in which a request must arrive completely.", name="receive_timeout"
    )
    max_calls: int = _limits(128, _one_or_more, "The most calls at one time; further ones are refused.")
    caller_share: float = _limits(
        0.75,
        share,
        "The share of calls and queued tiles that one caller may take, above 0 and at most 1; the rest is for others.",
    )
    chunk_bytes: int = _limits(
        DEFAULT_CHUNK_BYTES,
        at_least(MIN_CHUNK_BYTES, most=MAX_CHUNK_BYTES),
        "The most bytes of vision tokens in one message.",
    )
    cache: CacheLimits = group(CacheLimits)
    llm_security: ClientSecurity = group(ClientSecuritySettings, prefix="llm_")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.llm)) < len(self.llm):
            raise ConfigError(f"llm is {','.join(self.llm)}; each address may be given once")
        if self.text_tower_revision is not None and self.text_tower is None:
            raise ConfigError("text_tower_revision is given without text_tower")
        try:
            chosen_method(self.method, self.retention_ratio)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def default_method(self) -> str:
        """The compression method of requests that name none."""
        return chosen_method(self.method, self.retention_ratio) or KEEP_ALL


PROGRAM = Program(
    "visionsplit-encoder",
    "Crops images, encodes them, and sends the vision tokens worth keeping to an LLM service.",
    EncoderConfig,
)
