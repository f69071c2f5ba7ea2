"""Environment variables that vLLM reads when it is imported, and that its processes inherit."""

import os

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


def prepare_environment() -> None:
    """Set the variables; those that are set already stay as they are. Call before vLLM is imported."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ[OWNED] = "1"
