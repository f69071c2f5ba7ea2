"""Where replicas run, in this process or on Ray Serve, behind one interface."""

import os
import uuid

from visionsplit.network.addresses import split_host_port

from llm_service.backends.base import Backend
from llm_service.backends.local import LocalBackend
from llm_service.config import BackendKind, LlmConfig

# Ray reads these at import: they turn its usage reports off and keep Ray Serve's log lines in Ray's own files.
_RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}


def make_backend(config: LlmConfig) -> Backend:
    """Create the configured backend; Ray is imported only if it is used."""
    if config.backend is BackendKind.LOCAL:
        return LocalBackend(config.replica)
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    from llm_service.backends.ray_serve import RayServeBackend

    return RayServeBackend(config.replica, config.ray, replicas=config.replicas, application=_application(config))


def _application(config: LlmConfig) -> str:
    """The application's name on the cluster: different for every address, and the same after a restart there."""
    if config.ray.application is not None:
        return config.ray.application
    model = config.model.rstrip("/").rpartition("/")[2]
    host, port = split_host_port(config.listen)
    # Port 0 lets the system choose, so it does not distinguish services; a random suffix does.
    return "-".join(("visionsplit-llm", model, host, str(port) if port else uuid.uuid4().hex[:8]))
