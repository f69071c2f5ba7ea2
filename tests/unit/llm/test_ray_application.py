"""The calls to Ray Serve. The cluster is simulated: no Ray process runs."""

from types import SimpleNamespace

import pytest
import ray
from ray import serve
from visionsplit.errors import UnavailableError

from llm_service.backends import ray_uses
from llm_service.backends.ray_application import RayApplication
from llm_service.backends.ray_serve import RayServeBackend
from llm_service.config import RayConfig, ReplicaConfig
from llm_service.engines.token_buffer import TokenBuffer


@pytest.fixture
def deployed(monkeypatch, random_checkpoints):
    """Starts an application on a cluster with this many GPUs: the actors' options, and the replicas' configuration."""

    def bring_up(gpus, *, replicas=1, device=None, **settings):
        found = []
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0} | ({"GPU": gpus} if gpus else {}))
        monkeypatch.setattr(serve, "start", lambda **_: None)
        monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={}))
        monkeypatch.setattr(serve, "run", lambda application, **_: found.append(application))
        replica = ReplicaConfig(str(random_checkpoints["llama"]), device=device)
        application = RayApplication("test", replica, RayConfig(**settings), replicas=replicas)
        assert application.find() is None
        application.deploy()
        deployment = found[0]._bound_deployment
        return deployment.ray_actor_options["num_gpus"], deployment.init_args[0]

    return bring_up


def test_each_replica_gets_a_gpu_where_there_are_enough(deployed):
    gpus, replica = deployed(2.0, replicas=2)
    assert (gpus, replica.engine.memory_fraction) == (1, 0.8)
    assert deployed(0, replicas=2)[0] == 0
    assert deployed(2.0, device="cpu")[0] == 0


def test_replicas_that_share_a_gpu_share_the_memory_for_the_kv_cache(deployed):
    gpus, replica = deployed(1.0, replicas=2)
    assert (gpus, replica.engine.memory_fraction) == (0.5, 0.4)


def test_an_operators_number_is_taken_as_it_is(deployed):
    gpus, replica = deployed(1.0, replicas=2, num_gpus=0.25)
    assert (gpus, replica.engine.memory_fraction) == (0.25, 0.8)
    assert deployed(4.0, num_gpus=0)[0] == 0


async def test_calls_end_when_ray_no_longer_knows_their_replica(monkeypatch, random_checkpoints):
    """A node that vanishes closes no connection."""
    config = RayConfig()
    application = RayApplication("test", ReplicaConfig(str(random_checkpoints["llama"])), config, replicas=1)
    backend, buffer = RayServeBackend(application, config, replicas=1), TokenBuffer()
    backend._reading["gone"] = {buffer}
    monkeypatch.setattr(ray_uses, "replica_names", lambda prefix: [])
    assert await backend.uses() == {}
    with pytest.raises(UnavailableError):
        await buffer.get()
