"""Environment variables that vLLM reads when it is imported, and that its processes inherit."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

OWNED = "VISIONSPLIT_ENGINE_CORE"  # set for the processes that this service's engine starts; see `plugin`

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    # A fork of a process with threads may deadlock, and a service has many.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # On the CPU: as many threads as OMP_NUM_THREADS says, on any core. vLLM's default pins each thread to a core, the
    # same ones in all replicas of a machine, and leaves one core free for a server.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
_PRELOAD = "LD_PRELOAD"
_OPENMP = "libiomp5.so"  # of the package intel-openmp, on which vLLM's build for CPUs depends


def prepare_environment(device: torch.device) -> None:
    """Set the variables; those that are set already stay as they are. Call before vLLM is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ[OWNED] = "1"
    if device.type == "cpu":
        os.environ.update(with_openmp(os.environ, Path(sys.prefix)))


def with_openmp(environment: Mapping[str, str], prefix: Path) -> dict[str, str]:
    """Variables with which vLLM's processes compute with Intel's OpenMP, which vLLM recommends on a CPU.

    The dynamic loader reads the variable when a process starts, so a running process stays as it is.

    Args:
        environment: the present variables.
        prefix: folder of the Python environment with vLLM. Where the library is not there, nothing changes.
    """
    library, preloaded = prefix / "lib" / _OPENMP, environment.get(_PRELOAD, "")
    if not library.exists() or "libiomp" in preloaded:
        return dict(environment)
    return {**environment, _PRELOAD: f"{preloaded}:{library}".lstrip(":")}
