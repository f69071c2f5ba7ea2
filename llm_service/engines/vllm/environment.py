"""Environment variables that vLLM reads when it is imported, and that its processes inherit."""

import os
import sys
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
        _preload_openmp(Path(sys.prefix) / "lib" / _OPENMP)


def _preload_openmp(library: Path) -> None:
    """Let vLLM's processes compute with Intel's OpenMP, which vLLM recommends; without it they are a fifth slower.

    The dynamic loader reads the variable when a process starts, so this process stays as it is.
    """
    preloaded = os.environ.get(_PRELOAD, "")
    if library.exists() and "libiomp" not in preloaded:
        os.environ[_PRELOAD] = f"{preloaded}:{library}".lstrip(":")
