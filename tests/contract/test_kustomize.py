"""Overlays and components of deploy/kubernetes: kustomize builds them, and they change what they should change."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
ROOTS = sorted(file.parent.name for file in KUSTOMIZATIONS if file.parent.parent == FOLDER)
COMPONENTS = sorted(file.parent.name for file in KUSTOMIZATIONS if file.parent.parent.name == "components")
KUBECTL = shutil.which("kubectl")
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed; the static checks have run")


def built(folder: Path) -> list[dict[str, Any]]:
    assert KUBECTL is not None
    run = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "deprecated" not in run.stderr
    return list(yaml.safe_load_all(run.stdout))


def find(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(documents: list[dict[str, Any]], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A Deployment's pod and its container."""
    pod = find(documents, "Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def files_named_in(value: Any) -> Iterator[str]:
    """Every string that names a file in a kustomization."""
    if isinstance(value, dict):
        for entry in value.values():
            yield from files_named_in(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from files_named_in(entry)
    elif isinstance(value, str) and "\n" not in value and value.endswith((".yaml", ".yml")):
        yield value


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=lambda file: str(file.parent.relative_to(FOLDER)))
def test_files_outside_a_folder_are_not_named(file):
    """kustomize refuses them, and `kubectl apply -k` cannot allow them. Only whole folders may lie elsewhere."""
    content = yaml.safe_load(file.read_text())
    for folder in (*content.pop("resources", ()), *content.pop("components", ())):
        assert (file.parent / folder).exists()
        assert not (".." in folder and folder.endswith(".yaml"))
    for name in files_named_in(content):
        assert ".." not in name
        assert (file.parent / name).is_file()


def test_images_in_a_ray_cluster_are_found_by_all_overlays_alike():
    assert (FOLDER / "gpu" / "images.yaml").read_text() == (FOLDER / "base" / "images.yaml").read_text()


@needs_kubectl
@pytest.mark.parametrize("name", ROOTS)
def test_overlays_build(name):
    images = {
        line.split(":", 1)[1].strip()
        for line in yaml.safe_dump_all(built(FOLDER / name)).splitlines()
        if "image:" in line
    }
    assert all(":" in image for image in images), images


@needs_kubectl
@pytest.mark.parametrize("base", ["base", "gpu"])
def test_all_components_fit_together(base, tmp_path):
    there = Path(os.path.relpath(FOLDER, tmp_path))
    kustomization = {
        "resources": [str(there / base)],
        "components": [str(there / "components" / name) for name in COMPONENTS],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    documents = built(tmp_path)
    assert {one["metadata"].get("namespace", "visionsplit") for one in documents} == {"visionsplit"}
    claims = [one["spec"]["accessModes"] for one in documents if one["kind"] == "PersistentVolumeClaim"]
    assert claims == [["ReadWriteMany"]] * 2
    monitor = find(documents, "ServiceMonitor", "visionsplit")["spec"]
    (selector,) = monitor["selector"]["matchExpressions"]
    for service in (one for one in documents if one["kind"] == "Service"):
        assert service["metadata"]["labels"][selector["key"]] in selector["values"]
        assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


@needs_kubectl
def test_the_gpu_overlay_has_room_for_seven_billion_parameters():
    documents = built(FOLDER / "gpu")
    cluster = find(documents, "RayCluster", "visionsplit")["spec"]
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]
    limits = worker["containers"][0]["resources"]["limits"]
    assert int(limits["memory"].removesuffix("Gi")) >= 2 * 14
    pod, encoder = pod_of(documents, "visionsplit-encoder")
    for spec, container in ((worker, worker["containers"][0]), (pod, encoder)):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["image"].endswith(":cuda")
        assert {one["key"] for one in spec["tolerations"]} == {"nvidia.com/gpu"}
    assert "nvidia.com/gpu" not in str(cluster["headGroupSpec"])
    assert "--device=cuda" in encoder["args"]
    assert {"--device=cuda", "--gpus-per-replica=1"} <= set(pod_of(documents, "visionsplit-llm")[1]["args"])


@needs_kubectl
@pytest.mark.parametrize("name", ["visionsplit-encoder", "visionsplit-llm"])
def test_probes_of_secured_services_speak_tls(name):
    _, container = pod_of(built(FOLDER / "secured"), name)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "grpc" not in container[probe]
        assert container[probe]["exec"]["command"][:2] == ["visionsplit", "health"]
