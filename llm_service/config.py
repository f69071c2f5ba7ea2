"""The service's configuration: read once by `__main__`, passed down whole."""

import enum
from dataclasses import dataclass, field

import torch


class BackendKind(enum.Enum):
    """Where replicas run."""

    LOCAL = "local"  # one replica in the gateway's own process
    RAY = "ray"  # Ray Serve


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of a replica's decoding engine. `None` means: as fits the device, see `for_device`."""

    page_size: int | None = None  # tokens per page of the KV cache
    kv_tokens: int | None = None  # tokens the KV cache holds; on a GPU, None takes max_memory_percent of what is free
    max_batch_tokens: int | None = None  # tokens of one step; longer prompts are prefilled in pieces
    max_running: int = 64  # requests of one step
    max_waiting: int = 128  # requests admitted beside those; more are refused
    slab_tokens: int = 32768  # vision tokens and newlines held for running requests and for reuse
    max_memory_percent: float = 0.8  # of the memory that is free once the weights are loaded, as a fraction
    max_virtual_id: int = 2**31 - 1  # ids above the vocabulary stand for vision tokens; the engine's ids are int32

    def for_device(self, device: torch.device) -> "EngineConfig":
        """The sizes to use on a device: small on a CPU, so that start-up is quick; on a GPU the library's own."""
        small = device.type == "cpu"
        return EngineConfig(
            page_size=self.page_size or (16 if small else 256),
            kv_tokens=self.kv_tokens or (16384 if small else None),
            max_batch_tokens=self.max_batch_tokens or (512 if small else None),
            max_running=self.max_running,
            max_waiting=self.max_waiting,
            slab_tokens=self.slab_tokens,
            max_memory_percent=self.max_memory_percent,
            max_virtual_id=self.max_virtual_id,
        )

    @property
    def num_blocks(self) -> int | None:
        """Pages that hold `kv_tokens`."""
        if self.kv_tokens is None or self.page_size is None:
            return None
        return -(-self.kv_tokens // self.page_size)


@dataclass(frozen=True)
class RayConfig:
    """How Ray Serve runs the replicas. Serve's own defaults are set for many small requests, not for this."""

    address: str = "local"  # "local" starts a cluster of this process's own; "auto" or host:port joins one
    min_replicas: int | None = None  # None: a fixed number; else autoscale between this and max_replicas
    max_replicas: int | None = None
    target_ongoing_requests: int = 16
    upscale_delay_s: float = 2.0
    downscale_delay_s: float = 60.0
    max_ongoing_requests: int = 128  # of one replica
    max_queued_requests: int = 256  # of the gateway, approximate
    num_cpus: float = 1.0  # of one replica
    num_gpus: float = 0.0  # of one replica
    health_check_period_s: float = 5.0


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take of the gateway."""

    max_images: int = 16
    max_uploads: int = 128  # requests being received at one time
    max_prompt_characters: int = 1_000_000
    default_max_new_tokens: int = 256


@dataclass(frozen=True)
class ReplicaConfig:
    """All that a replica needs to know."""

    model: str
    revision: str | None = None
    device: str | None = None  # None: CUDA where there is one, else the CPU
    dtype: str | None = None  # None: float32 on a CPU, else the checkpoint's own
    engine: EngineConfig = field(default_factory=EngineConfig)

    def torch_device(self) -> torch.device:
        if self.device is not None:
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def torch_dtype(self, stored: torch.dtype) -> torch.dtype:
        """The type of weights and activations, given the type in which the checkpoint stores them."""
        if self.dtype is not None:
            return DTYPES[self.dtype]
        return torch.float32 if self.torch_device().type == "cpu" else stored


@dataclass(frozen=True)
class LlmConfig:
    """The whole service."""

    model: str
    listen: str = "127.0.0.1:50052"
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    backend: BackendKind = BackendKind.LOCAL
    replicas: int = 1
    engine: EngineConfig = field(default_factory=EngineConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    limits: Limits = field(default_factory=Limits)
    grace: float = 30.0  # seconds that running requests get when the service stops
    log_level: str = "INFO"

    @property
    def replica(self) -> ReplicaConfig:
        return ReplicaConfig(self.model, self.revision, self.device, self.dtype, self.engine)


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
