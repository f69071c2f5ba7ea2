"""The service's configuration: read once by `__main__`, passed down whole. What makes no sense raises ValueError."""

import argparse
import enum
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from visionsplit.cli import command_line
from visionsplit.errors import UnavailableError
from visionsplit.network.addresses import split_host_port
from visionsplit.options.data_types import DTYPE_NAMES
from visionsplit.security.server import ServerSecurity
from visionsplit.telemetry.config import TelemetryConfig

if TYPE_CHECKING:  # reading a command line must not wait for PyTorch
    import torch

_FEWEST_SHARED = 4  # requests of one step


class BackendKind(enum.Enum):
    """Where replicas run."""

    LOCAL = "local"  # one replica in the gateway's own process
    RAY = "ray"  # Ray Serve


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of a replica's decoding engine. `None` means: as fits the device, see `for_device`."""

    page_size: int | None = None  # tokens per page of the KV cache
    kv_tokens: int | None = None  # tokens the KV cache holds; on a GPU, None takes memory_fraction of what is free
    max_batch_tokens: int | None = None  # tokens of one step; longer prompts are prefilled in pieces
    max_running: int = 64  # requests of one step
    caller_share: float = 0.75  # a caller leaves others half as many of these as this share would; see below
    max_waiting: int = 128  # requests admitted beside those; more are refused
    slab_tokens: int = 32768  # vision tokens and newlines held for running requests and for reuse
    memory_fraction: float = 0.8  # of the memory that is free once the weights are loaded
    max_virtual_id: int = 2**31 - 1  # ids above the vocabulary stand for vision tokens; the engine's ids are int32

    def __post_init__(self) -> None:
        for name in ("page_size", "kv_tokens", "max_batch_tokens"):
            if (value := getattr(self, name)) is not None:
                _at_least(name, value, 1)
        for name in ("max_running", "max_waiting", "slab_tokens"):
            _at_least(name, getattr(self, name), 1)
        for name in ("memory_fraction", "caller_share"):
            if not 0 < (part := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {part}; a number in (0, 1] is needed")
        if not 0 < self.max_virtual_id < 2**31:
            raise ValueError(f"max_virtual_id is {self.max_virtual_id}; 1 to {2**31 - 1} is possible")

    def for_device(self, device: "torch.device") -> "EngineConfig":
        """The sizes to use on a device: small on a CPU, so that start-up is quick; on a GPU the library's own."""
        small = device.type == "cpu"
        return replace(
            self,
            page_size=self.page_size or (16 if small else 256),
            kv_tokens=self.kv_tokens or (16384 if small else None),
            max_batch_tokens=self.max_batch_tokens or (512 if small else None),
        )

    @property
    def max_running_of_caller(self) -> int:
        """Requests of one caller that run together, of `max_running` and as many prepared ones.

        One caller for everything is common, and each place that it leaves free makes its steps smaller. A few places
        let others in, so only half of what the share leaves stays free, and at least one. Where the share is 1, or
        where there are very few places, a caller may have all.
        """
        if self.caller_share == 1 or self.max_running < _FEWEST_SHARED:
            return 2 * self.max_running
        return min(math.ceil(self.max_running * (1 + self.caller_share) / 2), self.max_running - 1)

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
    application: str | None = None  # its name on the cluster; None: made of the model and the address
    min_replicas: int | None = None  # None: a fixed number; else autoscale between this and max_replicas
    max_replicas: int | None = None
    target_ongoing_requests: int = 16
    upscale_delay_s: float = 2.0
    downscale_delay_s: float = 60.0
    max_ongoing_requests: int = 128  # of one replica
    max_queued_requests: int = 256  # of the gateway, approximate
    num_cpus: float = 1.0  # of one replica
    num_gpus: float | None = None  # of one replica; None: as the cluster has them, see `gpus_per_replica`
    health_check_period_s: float = 5.0
    graceful_shutdown_timeout_s: float = 120.0  # for the answers of a replica that is to go; Serve's 20 cut long ones

    def __post_init__(self) -> None:
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise ValueError("min_replicas and max_replicas go together: give both or neither")
        if self.min_replicas is not None and self.max_replicas is not None:
            _at_least("min_replicas", self.min_replicas, 1)
            _at_least("max_replicas", self.max_replicas, self.min_replicas)
        if self.application is not None and not self.application.strip():
            raise ValueError("the Ray application's name is empty")
        for name in ("target_ongoing_requests", "max_ongoing_requests", "max_queued_requests"):
            _at_least(name, getattr(self, name), 1)
        if self.num_gpus is not None:
            _at_least("num_gpus", self.num_gpus, 0)
        for name in ("num_cpus", "upscale_delay_s", "downscale_delay_s", "graceful_shutdown_timeout_s"):
            _at_least(name, getattr(self, name), 0)
        if not self.health_check_period_s > 0:
            raise ValueError(f"health_check_period_s is {self.health_check_period_s}; more than 0 is needed")

    def gpus_per_replica(self, device: str | None, replicas: int, cluster_gpus: float) -> float:
        """The GPUs that Ray reserves for one replica.

        Without `num_gpus`, a replica gets a GPU where the cluster has any. A fixed number of replicas, or the fewest of
        a changing one, may exceed the GPUs: they then share them equally.

        Args:
            device: that the replicas were told to use; None leaves the choice to them.
            replicas: their number, where it is fixed.
            cluster_gpus: GPUs of the whole cluster at the moment.
        """
        if self.num_gpus is not None:
            return self.num_gpus
        if device == "cpu":
            return 0.0
        whole = int(cluster_gpus)
        if whole < 1:
            return 0.0 if device is None else 1.0  # a device asked for by name may still join the cluster
        sharing = math.ceil((self.min_replicas or replicas) / whole)
        return 1 / sharing


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take of the gateway."""

    max_images: int = 16
    max_uploads: int = 256  # requests being received at one time, of which the header has arrived
    max_upload_bytes: int = 2 * 2**30  # of the vision tokens of all calls together, counted as float32
    max_calls: int | None = None  # from the end of the upload on; None: as many as the replicas have places for
    caller_share: float = 0.75  # of calls, uploads and bytes that one caller may have, so that others find room
    max_prompt_characters: int = 1_000_000  # fewer where the context cannot hold so many, see `PromptSize`
    default_max_new_tokens: int = 256
    # Silence after which an upload is given up as soon as others need its place or its room.
    upload_idle_seconds: float = 60.0
    # Time after which an upload is given up in any case. The encoder sends tokens as they come out of its device, so an
    # upload may take as long as the encoder's queue: 1024 tiles are 17 minutes for a large tower on a CPU.
    upload_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for name in (
            "max_images",
            "max_uploads",
            "max_upload_bytes",
            "max_prompt_characters",
            "default_max_new_tokens",
        ):
            _at_least(name, getattr(self, name), 1)
        if self.max_calls is not None:
            _at_least("max_calls", self.max_calls, 1)
        if not 0 < self.caller_share <= 1:
            raise ValueError(f"caller_share is {self.caller_share}; a number in (0, 1] is needed")
        for name in ("upload_idle_seconds", "upload_seconds"):
            if not ((seconds := getattr(self, name)) > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} is {seconds}; a finite number above 0 is needed")


@dataclass(frozen=True)
class ReplicaConfig:
    """All that a replica needs to know."""

    model: str
    revision: str | None = None
    device: str | None = None  # None: CUDA where there is one, else the CPU
    dtype: str | None = None  # None: float32 on a CPU, else the checkpoint's own
    engine: EngineConfig = field(default_factory=EngineConfig)
    otlp_endpoint: str | None = None  # where a replica sends its spans

    def torch_device(self) -> "torch.device":
        """The device of this machine.

        Raises:
            UnavailableError: this machine does not have it.
        """
        import torch

        available = torch.cuda.is_available()
        device = torch.device(self.device or ("cuda" if available else "cpu"))
        if device.type == "cuda" and not (available and (device.index or 0) < torch.cuda.device_count()):
            raise UnavailableError(
                f"device {self.device!r} is not there: this process sees {torch.cuda.device_count()} CUDA devices"
            )
        return device


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
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    security: ServerSecurity = field(default_factory=ServerSecurity)

    def __post_init__(self) -> None:
        try:
            split_host_port(self.listen)
        except ValueError as error:
            raise ValueError(f"listen: {error}") from None
        if self.device is not None:
            _check_device(self.device)
        if self.dtype is not None and self.dtype not in DTYPE_NAMES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_NAMES)}")
        _at_least("replicas", self.replicas, 1)
        if self.backend is BackendKind.LOCAL and (self.replicas > 1 or self.ray.min_replicas is not None):
            raise ValueError("the local backend has one replica; several need the ray backend")
        if self.ray.min_replicas is not None and self.replicas > 1:
            raise ValueError("replicas is a fixed number; with min_replicas and max_replicas leave it out")
        _at_least("grace", self.grace, 0)

    @property
    def replica(self) -> ReplicaConfig:
        otlp = self.telemetry.otlp_endpoint
        return ReplicaConfig(self.model, self.revision, self.device, self.dtype, self.engine, otlp)


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} is {value}; at least {least} is needed")


def _check_device(name: str) -> None:
    try:
        command_line.device(name)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"device: {error}") from None
