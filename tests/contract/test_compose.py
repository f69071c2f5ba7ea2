"""docker-compose.yml and the Dockerfile keep to what docs/deployment.md promises."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from llm_service.config import EngineKind
from tests.conftest import ROOT
from tests.contract.test_lock import locked

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())
VLLM = yaml.safe_load((ROOT / "docker-compose.vllm.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?-([^}]*))?\}")


def resolved(value: str, variables: Mapping[str, str] | None = None) -> str:
    """With the defaults of its variables that are not set."""
    return _VARIABLE.sub(lambda match: (variables or {}).get(match[1]) or match[2] or "", value)


def files_named_in(service: Mapping[str, Any]) -> list[Path]:
    mounts = [resolved(volume).split(":")[0] for volume in service.get("volumes", ())]
    return [ROOT / mount for mount in mounts if mount.startswith("./")]


def test_the_services_are_those_of_the_documentation():
    assert OURS == ["encoder", "ray-head", "llm-worker", "llm-gateway"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_bounded_and_restarted(name):
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    limits = service["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["cpus"]
    assert 0 < service["pids_limit"] <= 4096
    assert service["ulimits"]["nofile"]["hard"] >= 16384
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_privileges(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    for key in ("privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "container_name"):
        assert key not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))
    assert str(service.get("user", "1")).split(":")[0] not in ("0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(name):
    for port in SERVICES[name].get("ports", ()):
        assert resolved(port).startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name):
    for file in files_named_in(SERVICES[name]):
        assert file.exists(), f"{name} mounts {file}"


@pytest.mark.parametrize("name", OURS)
def test_our_images_come_from_the_one_dockerfile(name):
    build = SERVICES[name]["build"]
    assert build["dockerfile"] == "deploy/docker/Dockerfile"
    assert f" AS {build['target']}\n" in DOCKERFILE
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["init"] is True


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_other_images_are_named_by_their_content(name):
    assert re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", resolved(SERVICES[name]["image"]))


def test_the_base_image_is_named_by_its_content_and_in_both_places_alike():
    default = re.search(r"^ARG PYTHON_IMAGE=(\S+@sha256:[0-9a-f]{64})$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    for name in OURS:
        assert resolved(SERVICES[name]["build"]["args"]["PYTHON_IMAGE"]) == default[1]


def test_the_proxy_listens_and_answers_where_compose_expects():
    configuration = (ROOT / "deploy" / "proxy" / "nginx.conf").read_text()
    proxy = SERVICES["proxy"]
    (port,) = proxy["ports"]
    assert f"listen 0.0.0.0:{port.rpartition(':')[2]} " in configuration
    health = proxy["healthcheck"]["test"][-1].removeprefix("http://").removesuffix("/healthy")
    assert f"listen {health};" in configuration
    assert "server encoder:50051 " in configuration


@pytest.mark.parametrize("target", ["encoder", "llm", "models", "llm-vllm"])
def test_images_run_as_a_user_without_privileges(target):
    stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
    user = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)[-1]
    assert int(user.split(":")[0]) >= 1000
    assert re.search(r'^ENTRYPOINT \["', stage, re.MULTILINE), "a shell between would swallow signals"


def test_ray_has_room_for_its_object_store():
    for name in ("ray-head", "llm-worker", "llm-gateway"):
        assert resolved(SERVICES[name]["shm_size"]) == "512m"
        assert int(resolved(SERVICES[name]["environment"]["RAY_OBJECT_STORE_BYTES"])) < 512 * 2**20


def test_only_the_gateway_joins_both_networks():
    """Ray runs what reaches its ports, so encoders and what is published stay away from it."""
    assert SERVICES["encoder"]["networks"] == ["serving"]
    assert set(SERVICES["llm-gateway"]["networks"]) == {"serving", "ray"}
    for name in ("ray-head", "llm-worker"):
        assert SERVICES[name]["networks"] == ["ray"]
        assert "ports" not in SERVICES[name]


@pytest.mark.parametrize("compose", [COMPOSE, GPU], ids=["cpu", "gpu"])
def test_the_services_take_their_command_lines(compose):
    gateway = [resolved(argument) for argument in compose["services"]["llm-gateway"]["command"]]
    assert gateway[0] == "gateway"
    config = LLM.read(["--backend", "ray", "--ray-address", "auto", *gateway[1:]])
    assert config.listen == "0.0.0.0:50052"
    encoder = compose["services"]["encoder"].get("command", SERVICES["encoder"]["command"])
    options = ENCODER.read([resolved(argument) for argument in encoder])
    assert options.listen == "0.0.0.0:50051"
    assert options.llm == ("llm-gateway:50052",)
    assert (ROOT / options.model.removeprefix("/")).is_dir()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("none", None)),
        ({"COMPRESSION": "globalcom2"}, ("globalcom2", None)),
        ({"RETENTION_RATIO": "0.1"}, ("globalcom2-diverse", 0.1)),
        ({"COMPRESSION": "hired", "RETENTION_RATIO": "0.5"}, ("hired", 0.5)),
    ],
    ids=str,
)
def test_the_default_compression_is_set_by_variables(variables, expected):
    options = ENCODER.read([resolved(argument, variables) for argument in SERVICES["encoder"]["command"]])
    assert (options.default_method, options.retention_ratio) == expected


@pytest.mark.parametrize("name", OURS)
def test_no_connection_between_services_goes_through_a_proxy(name):
    environment = SERVICES[name]["environment"]
    for variable in ("NO_PROXY", "no_proxy"):
        own = resolved(environment[variable], {"NO_PROXY": "intranet"}).split(",")
        assert {"intranet", "localhost", "127.0.0.1", "::1", *OURS} <= set(own)
        assert "" not in resolved(environment[variable]).split(",")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - set(OURS)))
def test_other_services_have_no_proxy(name):
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        assert SERVICES[name]["environment"][variable] == ""


def test_services_have_longer_to_stop_than_their_calls_to_end():
    for name in ("encoder", "llm-gateway"):
        grace = next(argument for argument in SERVICES[name]["command"] if argument.startswith("--grace="))
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > float(resolved(grace).split("=")[1])


def test_the_gpu_file_only_adds_to_services_that_are_there():
    assert set(GPU["services"]) <= set(SERVICES)
    plain = [resolved(argument) for argument in SERVICES["llm-gateway"]["command"]]
    assert [resolved(argument) for argument in GPU["services"]["llm-gateway"]["command"]][: len(plain)] == plain
    for name in ("encoder", "llm-worker"):
        (device,) = GPU["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_the_vllm_file_changes_all_of_ray_alike():
    """Ray's processes need the same versions of everything, so the gateway has the replicas' image."""
    assert set(VLLM["services"]) == {"ray-head", "llm-worker", "llm-gateway"}
    for service in VLLM["services"].values():
        assert service["build"] == {"target": "llm-vllm"}
        assert resolved(service["image"]) == "visionsplit-llm:vllm"
    stage = DOCKERFILE.split(" AS llm-vllm\n")[1].split("\nFROM ")[0]
    assert "VISIONSPLIT_LLM_ENGINE=vllm" in stage
    assert LLM.read(["--model", "m"], {"VISIONSPLIT_LLM_ENGINE": "vllm"}).engine.kind is EngineKind.VLLM


@pytest.mark.parametrize(("service", "job"), [("encoder", 0), ("llm-gateway", 1)])
def test_prometheus_asks_where_services_serve_metrics(service, job):
    scrape = yaml.safe_load((ROOT / "deploy" / "observability" / "prometheus.yml").read_text())["scrape_configs"][job]
    (lookup,) = scrape["dns_sd_configs"]
    assert lookup["names"] == [service]
    assert f"--metrics=0.0.0.0:{lookup['port']}" in SERVICES[service]["command"]
    assert set(SERVICES[service]["networks"]) & set(SERVICES["prometheus"]["networks"])


@pytest.mark.parametrize("extras", [["encoder"], ["encoder", "llm"], ["vllm"]])
def test_the_dependency_lists_hold_what_the_project_requires(extras):
    lines = locked(*(f"--extra={extra}" for extra in extras)).splitlines()
    listed = [line.split("==")[0] for line in lines if "==" in line]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split("[<>=[]", requirement)[0] for requirement in project["dependencies"]} <= set(listed)
    assert "transformers" in listed
    assert ("ray" in listed) is (extras != ["encoder"])
    assert ("vllm" in listed) is ("vllm" in extras)
    assert not {"visionsplit", "pytest", "mypy", "matplotlib"} & set(listed)
    # Its build is chosen by TORCH_INDEX_URL, so it is a step of its own, and brings the GPU libraries that it needs.
    others = () if "vllm" in extras else ("torch", "nvidia", "triton")  # vLLM requires some by itself
    assert not [name for name in listed if name == "torch" or name.startswith(others)]
    assert re.search(r"--constraint constraints.txt \\\n.* torch$", DOCKERFILE, re.MULTILINE)
