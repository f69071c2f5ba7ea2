"""Where replicas run, behind one interface."""

import os
import uuid

from visionsplit.network.addresses import split_host_port

from llm_service.backends.base import Backend
from llm_service.backends.local import LocalBackend
from llm_service.config import BackendKind, LlmConfig

# Ray reads these when it is imported: nothing is reported home, and Serve's chatter stays in its own files.
_RAY_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}


def make_backend(config: LlmConfig) -> Backend:
    """The backend that the configuration names; Ray is imported only where it is used."""
    if config.backend is BackendKind.LOCAL:
        return LocalBackend(config.replica)
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    from llm_service.backends.ray_serve import RayServeBackend

    return RayServeBackend(config.replica, config.ray, replicas=config.replicas, application=_application(config))


def _application(config: LlmConfig) -> str:
    """A name on the cluster: its own for every address, and the same again when the service starts again there."""
    if config.ray.application is not None:
        return config.ray.application
    model = config.model.rstrip("/").rpartition("/")[2]
    host, port = split_host_port(config.listen)
    # A port that the system is to choose tells services apart no more.
    return "-".join(("visionsplit-llm", model, host, str(port) if port else uuid.uuid4().hex[:8]))
