"""The LLM service's settings, read without PyTorch so that a mistake is reported at once."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from visionsplit.command_line.configuration import Program
from visionsplit.command_line.parser import (
    at_least,
    json_object,
    member_of,
    not_negative,
    positive,
    share,
    word,
)
from visionsplit.command_line.settings import ConfigError, check, group, setting
from visionsplit.server.config import ServiceConfig, listening

if TYPE_CHECKING:  # reading the settings must not wait for PyTorch
    import torch

_FEWEST_SHARED = 4  # requests of one step

_serving = partial(setting, "serving")
_limits = partial(setting, "limits")
_engine = partial(setting, "engine of each replica")
_ray = partial(setting, "Ray Serve, with --backend ray")

_one_or_more = at_least(1)


class BackendKind(enum.Enum):
    """Where replicas run."""

    LOCAL = "local"  # one replica in the gateway's own process
    RAY = "ray"  # Ray Serve


class EngineKind(enum.Enum):
    """What decodes in a replica."""

    TRANSFORMERS = "transformers"  # the transformers library's continuous batching, and the layerwise engine
    VLLM = "vllm"  # vLLM, which is a separate set of dependencies


def _caller_share() -> float:
    share_of_caller: float = _limits(
        0.75,
        share,
        "The share of calls, uploads and their bytes that one caller may take, above 0 and at most 1; the rest is for "
        "others. Of a replica's running requests a caller leaves half as many to others.",
    )
    return share_of_caller


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of a replica's decoding engine. `None` means: as fits the device, see `for_device`."""

    kind: EngineKind = _engine(
        EngineKind.TRANSFORMERS,
        member_of(EngineKind),
        "What decodes: transformers needs nothing more than the service, vllm needs the package's extra of this name.",
        name="engine",
    )
    page_size: int | None = _engine(
        None,
        _one_or_more,
        "The number of tokens in a page of the KV cache.",
        absent="16 on the CPU, 256 on a GPU; vLLM's choice with --engine vllm",
    )
    kv_tokens: int | None = _engine(
        None,
        _one_or_more,
        "The number of tokens that the KV cache holds.",
        absent="16384 on the CPU, what --memory-fraction has room for on a GPU",
    )
    max_batch_tokens: int | None = _engine(
        None,
        _one_or_more,
        "The most tokens in one step; longer prompts are read in several.",
        absent="1024 on the CPU, the transformers library's choice on a GPU; vLLM's choice with --engine vllm",
    )
    max_running: int = _engine(64, _one_or_more, "The most requests in one step.")
    caller_share: float = _caller_share()  # the limits have the same setting; see `max_running_of_caller`
    max_waiting: int = _engine(128, _one_or_more, "The most requests that wait to run; further ones are refused.")
    slab_tokens: int = _engine(
        32768,
        _one_or_more,
        "The most vision tokens, and newlines between their rows, held for running requests and for images that come "
        "again.",
    )
    memory_fraction: float = _engine(
        0.8,
        share,
        "The share of the GPU memory left beside the weights that the KV cache takes, above 0 and at most 1. With "
        "--engine vllm, the share of all GPU memory that vLLM takes for the weights, the KV cache and its work.",
    )
    vllm_options: Mapping[str, object] | None = _engine(
        None,
        json_object,
        'Arguments of vLLM\'s engine by their names there, such as {"tensor_parallel_size": 2}, with --engine vllm. '
        "They override what follows from other settings.",
    )
    max_virtual_id: int = 2**31 - 1  # ids above the vocabulary stand for vision tokens; the engine's ids are int32

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.max_virtual_id < 2**31:
            raise ConfigError(f"max_virtual_id is {self.max_virtual_id}; 1 to {2**31 - 1} is possible")
        if self.vllm_options and self.kind is not EngineKind.VLLM:
            raise ConfigError("--vllm-options need --engine vllm")

    def for_device(self, device: "torch.device") -> "EngineConfig":
        """The sizes to use on a device: small on a CPU, so that start-up is quick; on a GPU the library's own."""
        small = device.type == "cpu"
        return replace(
            self,
            page_size=self.page_size or (16 if small else 256),
            kv_tokens=self.kv_tokens or (16384 if small else None),
            max_batch_tokens=self.max_batch_tokens or (1024 if small else None),
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

    address: str = _ray(
        "local",
        word,
        "The Ray cluster: local starts one on this machine, auto joins the one that this machine belongs to, HOST:PORT "
        "joins another.",
        name="ray_address",
        metavar="ADDRESS",
    )
    application: str | None = _ray(
        None,
        word,
        "The name of the application on the cluster.",
        name="ray_application",
        metavar="NAME",
        absent="made of the model and the address",
    )
    min_replicas: int | None = _ray(
        None,
        _one_or_more,
        "The fewest replicas; together with --max-replicas their number then follows the load.",
        absent="the number is fixed",
    )
    max_replicas: int | None = _ray(None, _one_or_more, "The most replicas.", absent="the number is fixed")
    target_ongoing_requests: int = 16
    upscale_delay_s: float = 2.0
    downscale_delay_s: float = 60.0
    max_ongoing_requests: int = _ray(128, _one_or_more, "The most requests that one replica runs and queues.")
    max_queued_requests: int = _ray(256, _one_or_more, "The most requests that wait for a replica.")
    num_cpus: float = _ray(
        1.0, not_negative, "The CPU cores that Ray reserves for a replica.", name="cpus_per_replica", metavar="N"
    )
    num_gpus: float | None = _ray(
        None,
        not_negative,
        "The GPUs that Ray reserves for a replica; a fraction shares one.",
        name="gpus_per_replica",
        metavar="N",
        absent="1 where the Ray cluster has GPUs and --device is not cpu, else 0",
    )
    health_check_period_s: float = 5.0
    graceful_shutdown_timeout_s: float = 120.0  # for the answers of a replica that is to go; Serve's 20 cut long ones

    def __post_init__(self) -> None:
        check(self)
        if self.min_replicas is None or self.max_replicas is None:
            if self.min_replicas is not self.max_replicas:
                raise ConfigError("--min-replicas and --max-replicas go together: give both or neither")
        elif self.max_replicas < self.min_replicas:
            raise ConfigError(f"--max-replicas {self.max_replicas} is less than --min-replicas {self.min_replicas}")

    def gpus_per_replica(self, device: str | None, replicas: int, cluster_gpus: float) -> float:
        """The GPUs that Ray reserves for one replica.

        Without `num_gpus`, a replica gets a GPU where the cluster has any. A fixed number of replicas, or the fewest of
        a changing one, may exceed the GPUs: they then share them equally.

        Args:
            device: the setting of the replicas; None leaves the choice to them.
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

    max_images: int = _limits(16, _one_or_more, "The most images in one request.")
    max_prompt_characters: int = _limits(
        1_000_000,
        _one_or_more,
        "The most characters of one prompt. Prompts that cannot fit the context are refused whatever this says.",
    )
    default_max_new_tokens: int = _limits(256, _one_or_more, "The most tokens of an answer, unless a request says.")
    max_calls: int | None = _limits(
        None,
        _one_or_more,
        "The most calls at one time, from the end of their uploads on; further ones are refused.",
        absent="as many as the replicas can run and queue",
    )
    max_uploads: int = _limits(
        256, _one_or_more, "The most requests that are being received at one time, after their header has arrived."
    )
    max_upload_bytes: int = _limits(
        2 * 2**30, _one_or_more, "The most bytes of vision tokens held for all calls together, counted as float32."
    )
    caller_share: float = _caller_share()
    upload_idle_seconds: float = _limits(
        60.0,
        positive,
        "The silence in seconds after which an upload is ended when other calls need its slot or its memory.",
        name="upload_idle",
    )
    # An upload may take as long as the encoder's queue: 1024 tiles are 17 minutes for a large tower on a CPU.
    upload_seconds: float = _limits(
        1800.0,
        positive,
        "The longest time in seconds that an upload may take. An encoder sends tokens as they are ready, so this "
        "covers the wait in the encoder's queue.",
        name="upload_time",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ReplicaConfig:
    """All that a replica needs to know."""

    model: str
    revision: str | None = None
    device: str | None = None  # None: CUDA where there is one, else the CPU
    dtype: str | None = None  # None: float32 on a CPU, else the checkpoint's own
    engine: EngineConfig = field(default_factory=EngineConfig)
    otlp_endpoint: str | None = None  # where a replica sends its spans


@dataclass(frozen=True)
class LlmConfig(ServiceConfig):
    """Settings of one LLM service."""

    listen: str = listening("127.0.0.1:50052")
    backend: BackendKind = _serving(
        BackendKind.LOCAL,
        member_of(BackendKind),
        "Where replicas of the language model run: local is one in this process, ray is any number on Ray Serve.",
    )
    replicas: int = _serving(1, _one_or_more, "The fixed number of replicas, with --backend ray.")
    limits: Limits = group(Limits)
    engine: EngineConfig = group(EngineConfig)
    ray: RayConfig = group(RayConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        scales = self.ray.min_replicas is not None
        if self.backend is BackendKind.LOCAL and (self.replicas > 1 or scales):
            raise ConfigError(
                "--backend local has one replica; --replicas, --min-replicas and --max-replicas need --backend ray"
            )
        if scales and self.replicas > 1:
            raise ConfigError("--replicas is a fixed number; leave it out with --min-replicas and --max-replicas")

    @property
    def replica(self) -> ReplicaConfig:
        otlp = self.telemetry.otlp_endpoint
        return ReplicaConfig(self.model, self.revision, self.device, self.dtype, self.engine, otlp)


PROGRAM = Program(
    "visionsplit-llm", "Turns prompts with vision tokens into text, streamed as it is generated.", LlmConfig
)
