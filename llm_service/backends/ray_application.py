"""The replicas as a Ray Serve application: deploying, taking over, counting and deleting it."""

import hashlib
import logging
from dataclasses import replace
from typing import Any

import ray
import visionsplit
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, LoggingConfig
from visionsplit.errors import UnavailableError
from visionsplit.model.checkpoint import Checkpoint

from llm_service.backends.ray_replica import DEPLOYMENT, LlmReplica
from llm_service.config import RayConfig, ReplicaConfig

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0  # time for running replicas to answer with their version


class RayApplication:
    """One deployment, without Ray Serve's own HTTP and gRPC proxies. All methods block.

    The replicas outlive a gateway that was killed, and the next gateway of the same application takes them over, since
    `serve.run` would replace every replica and load the weights again. A gateway takes over only replicas that were
    deployed from the same release, settings and checkpoint files.
    """

    def __init__(self, name: str, replica: ReplicaConfig, config: RayConfig, *, replicas: int) -> None:
        self._name = name
        self._replica = replica
        self._config = config
        self._num_replicas = replicas
        self._up = False

    def bring_up(self) -> Any:  # noqa: ANN401 - Ray has no types
        """Take over the running replicas or deploy new ones; return the handle for calling them.

        Raises:
            CheckpointError: the checkpoint cannot be read.
            UnavailableError: the replicas did not start.
        """
        quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
        serve.start(proxy_location="Disabled", logging_config=quiet)
        version = self._version()
        self._up = True
        if (handle := self._find(version)) is not None:
            _log.info("took over the replicas of Ray application %s", self._name)
            return handle
        gpus = self._config.gpus_per_replica(
            self._replica.device, self._num_replicas, ray.cluster_resources().get("GPU", 0)
        )
        _log.info("each replica gets %g GPUs", gpus)
        deployment = serve.deployment(LlmReplica, name=DEPLOYMENT).options(
            max_ongoing_requests=self._config.max_ongoing_requests,
            max_queued_requests=self._config.max_queued_requests,
            health_check_period_s=self._config.health_check_period_s,
            graceful_shutdown_timeout_s=self._config.graceful_shutdown_timeout_s,
            ray_actor_options={"num_cpus": self._config.num_cpus, "num_gpus": gpus},
            logging_config=quiet,
            **self._scale(),
        )
        try:
            return serve.run(deployment.bind(self._sharing(gpus), version), name=self._name, route_prefix=None)
        except RuntimeError as error:
            _log.debug("the deployment failed", exc_info=True)
            raise UnavailableError(f"Ray Serve could not bring the replicas up: {_last_line(error)}") from error

    def _sharing(self, gpus: float) -> ReplicaConfig:
        """The replicas' configuration; replicas that share a GPU divide the memory of the KV cache among them."""
        if self._config.num_gpus is not None or not 0 < gpus < 1:
            return self._replica
        engine = self._replica.engine
        return replace(self._replica, engine=replace(engine, memory_fraction=engine.memory_fraction * gpus))

    def num_running(self) -> int:
        """The number of running replicas.

        Raises:
            RayError, RayServeException, ConnectionError: Serve does not answer.
        """
        application = serve.status().applications.get(self._name)
        deployment = application.deployments.get(DEPLOYMENT) if application is not None else None
        return int(deployment.replica_states.get("RUNNING", 0)) if deployment is not None else 0

    def take_away(self) -> None:
        """Delete the application, which ends the replicas; does nothing if they were never started."""
        if self._up:
            serve.delete(self._name)

    def _version(self) -> str:
        """Hash of everything that decides what the replicas are and how Ray Serve runs them."""
        stamp = Checkpoint(self._replica.model, revision=self._replica.revision).stamp()
        facts = (visionsplit.__version__, self._replica, self._config, self._num_replicas, stamp)
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def _find(self, version: str) -> Any | None:  # noqa: ANN401
        """The handle of a running application of this version; None if there is none."""
        application = serve.status().applications.get(self._name)
        if application is None or application.status is not ApplicationStatus.RUNNING:
            return None
        handle = serve.get_app_handle(self._name)
        try:
            told = handle.broadcast("take_over").results(timeout_s=_ANSWER_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            _log.warning("Ray application %s runs but does not answer; deploying it again: %s", self._name, error)
            return None
        if set(told) != {version}:
            _log.info("Ray application %s runs with other settings; deploying it again", self._name)
            return None
        return handle

    def _scale(self) -> dict[str, Any]:
        config = self._config
        if config.min_replicas is None:
            return {"num_replicas": self._num_replicas}
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=config.min_replicas,
                max_replicas=config.max_replicas or self._num_replicas,
                target_ongoing_requests=config.target_ongoing_requests,
                upscale_delay_s=config.upscale_delay_s,
                downscale_delay_s=config.downscale_delay_s,
            )
        }


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
