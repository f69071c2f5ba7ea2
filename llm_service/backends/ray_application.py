"""The replicas as a Ray Serve application: deploying, taking over, counting and deleting it."""

import asyncio
import hashlib
import logging
import pickle
import time
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
from visionsplit.families.checkpoint import Checkpoint

from llm_service.backends.ray_cluster import last_line
from llm_service.backends.ray_replica import DEPLOYMENT, LlmReplica
from llm_service.backends.ray_uses import replica_names, replica_prefix
from llm_service.config import RayConfig, ReplicaConfig
from llm_service.replica.engines import MakeEngines, make_engines

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0  # time for running replicas to answer with their version
_COUNT_SECONDS = 10.0  # for which a number of replicas may be believed
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
# A job comes as one message. gRPC's own limit of 4 MiB is less than one uncompressed image; the gateway limits uploads.
_ENVIRONMENT = {"env_vars": {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1)}}


class RayApplication:
    """One deployment, without Ray Serve's own HTTP and gRPC proxies. Methods block unless they are coroutines.

    The replicas outlive a gateway that was killed, and the next gateway of the same application takes them over, since
    `serve.run` would replace every replica and load the weights again. A gateway takes over only replicas that were
    deployed from the same release, settings and checkpoint files.
    """

    def __init__(
        self,
        name: str,
        replica: ReplicaConfig,
        config: RayConfig,
        *,
        replicas: int,
        make_engines: MakeEngines = make_engines,
    ) -> None:
        """`name` must be unique on the cluster."""
        self.name = name
        self._make_engines = make_engines
        self._replica = replica
        self._config = config
        self._num_replicas = replicas
        self._version = ""
        self._up = False
        self._all_running: set[str] | None = None  # the actors at the last count, if all of them ran
        self._count_again = 0.0  # of time.monotonic

    def find(self) -> Any | None:  # noqa: ANN401 - Ray has no types
        """Start Ray Serve where it does not run; the handle of the application if it runs already, for `take_over`.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        self._version = self._hash()
        application = serve.status().applications.get(self.name)
        if application is None or application.status is not ApplicationStatus.RUNNING:
            return None
        return serve.get_app_handle(self.name)

    async def take_over(self, handle: Any) -> bool:  # noqa: ANN401
        """Whether the running replicas are of this version; if so, the calls that they still run are ended."""
        answers = handle.broadcast("take_over")
        try:
            told = await asyncio.to_thread(answers.results, timeout_s=_ANSWER_SECONDS)
        except (RayError, RayServeException, TimeoutError) as error:
            _log.warning("Ray application %s runs but does not answer; deploying it again: %s", self.name, error)
            return False
        if set(told) != {self._version}:
            _log.info("Ray application %s runs with other settings; deploying it again", self.name)
            return False
        self._up = True
        _log.info("took over the replicas of Ray application %s", self.name)
        return True

    def deploy(self) -> Any:  # noqa: ANN401
        """Deploy new replicas, in place of running ones; return the handle for calling them. After `find`.

        Raises:
            UnavailableError: the replicas did not start.
        """
        self._up = True
        gpus = self._config.gpus_per_replica(
            self._replica.device, self._num_replicas, ray.cluster_resources().get("GPU", 0)
        )
        _log.info("each replica gets %g GPUs", gpus)
        deployment = serve.deployment(LlmReplica, name=DEPLOYMENT).options(
            max_ongoing_requests=self._config.max_ongoing_requests,
            max_queued_requests=self._config.max_queued_requests,
            health_check_period_s=self._config.health_check_period_s,
            graceful_shutdown_timeout_s=self._config.graceful_shutdown_timeout_s,
            ray_actor_options={"num_cpus": self._config.num_cpus, "num_gpus": gpus, "runtime_env": _ENVIRONMENT},
            logging_config=_QUIET,
            **self._scale(),
        )
        application = deployment.bind(self._sharing(gpus), self._version, self._make_engines)
        try:
            return serve.run(application, name=self.name, route_prefix=None)
        except RuntimeError as error:
            _log.debug("the deployment failed", exc_info=True)
            raise UnavailableError(f"Ray Serve could not bring the replicas up: {last_line(error)}") from error

    def _sharing(self, gpus: float) -> ReplicaConfig:
        """The replicas' configuration; replicas that share a GPU divide the memory of the KV cache among them."""
        if self._config.num_gpus is not None or not 0 < gpus < 1:
            return self._replica
        engine = self._replica.engine
        return replace(self._replica, engine=replace(engine, memory_fraction=engine.memory_fraction * gpus))

    def num_running(self) -> int:
        """The number of running replicas.

        `serve.status` takes tens of milliseconds of a processor, because it builds the whole configuration of every
        application. So it is asked only when the actors have changed, when some of them do not run, and from time to
        time, since an actor that stops keeps its name.

        Raises:
            RayError, RayServeException, ConnectionError: Serve does not answer.
        """
        names = set(replica_names(replica_prefix(self.name, DEPLOYMENT)))
        if names == self._all_running and time.monotonic() < self._count_again:
            return len(names)
        application = serve.status().applications.get(self.name)
        deployment = application.deployments.get(DEPLOYMENT) if application is not None else None
        running = int(deployment.replica_states.get("RUNNING", 0)) if deployment is not None else 0
        self._all_running = names if running == len(names) else None
        self._count_again = time.monotonic() + _COUNT_SECONDS
        return running

    def take_away(self) -> None:
        """Delete the application, which ends the replicas; does nothing if they were never started."""
        if self._up:
            serve.delete(self.name)

    def _hash(self) -> str:
        """Hash of everything that decides what the replicas are and how Ray Serve runs them."""
        stamp = Checkpoint(self._replica.model, revision=self._replica.revision).stamp()
        facts = (
            *(visionsplit.__version__, self._replica, self._config, self._num_replicas, stamp),
            pickle.dumps(self._make_engines),  # a function's repr has its address in memory
        )
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

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
