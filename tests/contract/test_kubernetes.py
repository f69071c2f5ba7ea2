"""The Kubernetes manifests are whole: names, ports, images and settings meet. No cluster is asked.

What kustomize makes of them is in test_kustomize.
"""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from encoder_service.config import PROGRAM as ENCODER
from encoder_service.config import EncoderConfig
from encoder_service.metrics import EncoderMetrics
from llm_service.config import PROGRAM as LLM
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
DOCUMENTS: list[dict[str, Any]] = [
    document for file in BASE["resources"] for document in yaml.safe_load_all((FOLDER / "base" / file).read_text())
]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"] == kind}


SETTINGS = of_kind("ConfigMap")["visionsplit"]["data"]
CLUSTER = of_kind("RayCluster")["visionsplit"]["spec"]
PODS: dict[str, dict[str, Any]] = {
    **{name: deployment["spec"]["template"] for name, deployment in of_kind("Deployment").items()},
    "head": CLUSTER["headGroupSpec"]["template"],
    "worker": CLUSTER["workerGroupSpecs"][0]["template"],
}


# Ray's head runs no replica and reads no checkpoint.
READERS = sorted(set(PODS) - {"head"})


def container(pod: str) -> dict[str, Any]:
    (only,) = PODS[pod]["spec"]["containers"]
    return dict(only)


def containers(pod: str) -> list[dict[str, Any]]:
    return [*PODS[pod]["spec"].get("initContainers", ()), container(pod)]


def arguments(pod: str, **settings: str) -> list[str]:
    found = container(pod)["args"]
    for name, value in {**SETTINGS, **settings}.items():
        found = [argument.replace(f"$({name})", value) for argument in found]
    assert not any("$(" in argument for argument in found)
    return found


def test_every_document_says_what_it_is():
    for document in DOCUMENTS:
        assert document["apiVersion"]
        assert document["kind"]
        assert document["metadata"]["name"]
    names = [(document["kind"], document["metadata"]["name"]) for document in DOCUMENTS]
    assert len(names) == len(set(names))
    files = {file.name for file in (FOLDER / "base").glob("*.yaml")}
    assert files == {*BASE["resources"], *BASE["configurations"], "kustomization.yaml"}


@pytest.mark.parametrize("pod", PODS)
def test_pods_run_without_privileges_and_within_bounds(pod):
    security = PODS[pod]["spec"]["securityContext"]
    assert security["runAsNonRoot"] is True
    assert f"USER {security['runAsUser']}:" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    for one in containers(pod):
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(one["resources"][kind])
    # Ray's autoscaler, in the head, changes the number of workers.
    assert PODS[pod]["spec"].get("automountServiceAccountToken", True) is (pod == "head")


@pytest.mark.parametrize("pod", PODS)
def test_pods_mount_what_they_have(pod):
    volumes = {volume["name"]: volume for volume in PODS[pod]["spec"]["volumes"]}
    for one in containers(pod):
        assert {mount["name"] for mount in one["volumeMounts"]} <= set(volumes)
    assert {mount["name"] for mount in container(pod)["volumeMounts"]} == set(volumes)
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim")
        assert claim is None or claim["claimName"] in of_kind("PersistentVolumeClaim")
    assert "emptyDir" in volumes["tmp"]


@pytest.mark.parametrize("pod", READERS)
def test_checkpoints_are_there_before_a_service_reads_them(pod):
    loader, service = containers(pod)
    for volume in ("models", "hub"):
        assert "persistentVolumeClaim" in {one["name"]: one for one in PODS[pod]["spec"]["volumes"]}[volume]
        places = [next(mount for mount in one["volumeMounts"] if mount["name"] == volume) for one in (loader, service)]
        assert places[0]["mountPath"] == places[1]["mountPath"]
        assert [place.get("readOnly", False) for place in places] == [False, True]
    assert loader["args"] == ["$(MODEL)"]
    assert {"configMapRef": {"name": "visionsplit"}} in loader["envFrom"]
    assert {"name": "HF_HUB_OFFLINE", "value": "1"} in service["env"]


@pytest.mark.parametrize("pod", PODS)
def test_images_are_those_that_compose_or_the_dockerfile_build(pod):
    built = {service["image"] for service in COMPOSE.values() if "build" in service}
    tags = {entry["name"]: entry["newTag"] for entry in BASE["images"]}
    assert any(f"-{container(pod)['image']}:{tags[container(pod)['image']]}}}" in name for name in built)
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    for one in containers(pod):
        assert f" AS {one['image'].removeprefix('visionsplit-')}\n" in dockerfile
        assert one["image"] in tags


@pytest.mark.parametrize("pod", PODS)
def test_pods_are_probed(pod):
    for probe in ("readinessProbe", "livenessProbe"):
        assert {"grpc", "exec"} & set(container(pod)[probe])
    if "args" in container(pod):
        ports = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container(pod)[probe]["grpc"]["port"] == ports["grpc"]


def test_the_encoder_takes_its_command_line():
    options = ENCODER.read(arguments("visionsplit-encoder"))
    host, port = options.listen.split(":")
    assert (host, int(port)) == ("0.0.0.0", container("visionsplit-encoder")["ports"][0]["containerPort"])
    assert port == EncoderConfig(model="m").listen.split(":")[1]
    service, port = options.llm[0].split(":")
    assert int(port) in {entry["port"] for entry in of_kind("Service")[service]["spec"]["ports"]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("none", None)),
        ({"COMPRESSION": "globalcom2"}, ("globalcom2", None)),
        ({"RETENTION_RATIO": "0.1"}, ("globalcom2-diverse", 0.1)),
        ({"COMPRESSION": "hired", "RETENTION_RATIO": "0.5"}, ("hired", 0.5)),
    ],
    ids=str,
)
def test_the_default_compression_is_set_by_the_settings(settings, expected):
    options = ENCODER.read(arguments("visionsplit-encoder", **settings))
    assert (options.default_method, options.retention_ratio) == expected


def test_the_gateway_takes_its_command_line_and_finds_the_head():
    role, *rest = arguments("visionsplit-llm")
    assert role == "gateway"
    config = LLM.read(["--backend", "ray", "--ray-address", "auto", *rest])
    assert config.listen == "0.0.0.0:50052"
    assert config.ray.max_replicas == CLUSTER["workerGroupSpecs"][0]["maxReplicas"]
    (head,) = (entry["value"] for entry in container("visionsplit-llm")["env"] if entry["name"] == "RAY_HEAD")
    assert head == f"{of_kind('RayCluster')['visionsplit']['metadata']['name']}-head-svc:6379"


def test_calls_may_end_before_a_pod_is_killed():
    for pod in ("visionsplit-encoder", "visionsplit-llm"):
        grace = next(argument for argument in arguments(pod) if argument.startswith("--grace="))
        assert PODS[pod]["spec"]["terminationGracePeriodSeconds"] > float(grace.split("=")[1])


def test_selectors_select_pods():
    labels = [PODS[pod]["metadata"]["labels"] for pod in PODS]
    selectors = [document["spec"]["selector"] for document in of_kind("Service").values()]
    selectors += [
        document["spec"]["selector"]["matchLabels"]
        for kind in ("Deployment", "PodDisruptionBudget")
        for document in of_kind(kind).values()
    ]
    selectors += [
        document["spec"]["podSelector"].get("matchLabels", {}) for document in of_kind("NetworkPolicy").values()
    ]
    for selector in selectors:
        assert any(selector.items() <= pod.items() for pod in labels), selector


def test_services_lead_to_ports_of_their_pods():
    for name, service in of_kind("Service").items():
        ports = {port["name"] for port in container(name)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_autoscaler_watches_a_metric_that_encoders_have():
    scaler = of_kind("HorizontalPodAutoscaler")["visionsplit-encoder"]["spec"]
    assert scaler["scaleTargetRef"]["name"] in of_kind("Deployment")
    assert "replicas" not in of_kind("Deployment")["visionsplit-encoder"]["spec"]
    (metric,) = scaler["metrics"]
    registry = CollectorRegistry()
    EncoderMetrics(registry)
    assert metric["pods"]["metric"]["name"] in {family.name for family in registry.collect()}


def test_ray_is_of_the_image_and_holds_replicas_on_workers_only():
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={CLUSTER['rayVersion']}" in pinned
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert int(CLUSTER["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"]) >= 1


def load(model: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The init container's script, with other folders in place of the volume and of the image's checkpoints."""
    script = ROOT / "deploy" / "docker" / "load-model.sh"
    environment = {**os.environ, "MODELS": str(folder), "CHECKPOINTS": str(ROOT / "models")}
    return subprocess.run(["sh", script, model], env=environment, capture_output=True, text=True)


def test_an_empty_volume_is_filled_once(tmp_path):
    model = tmp_path / "visionsplit-mini"
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: load(str(model), tmp_path), range(4)))
    assert [run.returncode for run in runs] == [0] * 4, runs
    assert [path.name for path in tmp_path.iterdir()] == ["visionsplit-mini"]
    shipped = ROOT / "models" / "visionsplit-mini"
    for file in shipped.iterdir():
        assert (model / file.name).read_bytes() == file.read_bytes()
    (model / "marker").touch()
    assert load(str(model), tmp_path).returncode == 0
    assert (model / "marker").exists()


def test_a_checkpoint_that_is_nowhere_is_named(tmp_path):
    for model in (str(tmp_path / "other"), "/elsewhere/model"):
        run = load(model, tmp_path)
        assert run.returncode == 1
        assert Path(model).name in run.stderr


def test_connections_into_ray_come_from_named_namespaces_only():
    """Ray executes code for everyone who reaches its ports."""
    (policy,) = [one for one in of_kind("NetworkPolicy").values() if one["metadata"]["name"] == "visionsplit-ray"]
    for rule in policy["spec"]["ingress"]:
        for source in rule["from"]:
            namespaces = source.get("namespaceSelector")
            assert namespaces is None or namespaces["matchLabels"].keys() == {"kubernetes.io/metadata.name"}
    default = of_kind("NetworkPolicy")["visionsplit-default"]["spec"]
    assert default["podSelector"] == {}
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default
