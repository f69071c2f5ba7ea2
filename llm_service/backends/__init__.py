"""Where replicas run, in this process or on Ray Serve, behind one interface."""

import os
import uuid

from visionsplit.network.addresses import split_host_port

from llm_service.backends.base import Backend
from llm_service.backends.local import LocalBackend
from llm_service.config import BackendKind, LlmConfig
from llm_service.replica.engines import MakeEngines

# Ray reads these at import.
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",  # Ray Serve's log lines stay in Ray's own files
    # Ray Serve would choose replicas on a thread with another event loop, and pass every token between the two.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def make_backend(config: LlmConfig, make_engines: MakeEngines) -> Backend:
    """Create the configured backend; Ray is imported only if it is used."""
    if config.backend is BackendKind.LOCAL:
        return LocalBackend(config.replica, make_engines)
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    from llm_service.backends.ray_application import RayApplication
    from llm_service.backends.ray_serve import RayServeBackend

    application = RayApplication(
        _application(config), config.replica, config.ray, replicas=config.replicas, make_engines=make_engines
    )
    return RayServeBackend(application, config.ray, replicas=config.replicas)


def _application(config: LlmConfig) -> str:
    """The application's name on the cluster: different for every address, and the same after a restart there."""
    if config.ray.application is not None:
        return config.ray.application
    model = config.model.rstrip("/").rpartition("/")[2]
    host, port = split_host_port(config.listen)
    # Port 0 lets the system choose, so it does not distinguish services; a random suffix does.
    return "-".join(("visionsplit-llm", model, host, str(port) if port else uuid.uuid4().hex[:8]))
