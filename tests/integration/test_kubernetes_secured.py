"""The options, probes and Secrets of deploy/kubernetes/components/secured, with real services."""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from visionsplit.errors import UnauthenticatedError
from visionsplit_cli import main
from visionsplit_client import AsyncClient, BearerToken, ClientSecurity, ClientTls, Sampling

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from tests.conftest import ROOT
from tests.integration.system import running_system
from tests.noise import noise_image

COMPONENT = ROOT / "deploy" / "kubernetes" / "components" / "secured"
MOUNTED = "/etc/visionsplit/"


def read(file: str) -> dict[str, Any]:
    return dict(yaml.safe_load((COMPONENT / file).read_text()))


def added_options(deployment: str) -> list[str]:
    patches = [one for one in read("kustomization.yaml")["patches"] if one.get("target", {}).get("name") == deployment]
    return [operation["value"] for patch in patches for operation in yaml.safe_load(patch["patch"])]


def mounted(words: list[str], pod: str, secrets: Path) -> list[str]:
    """Words in which the mounted Secrets are files of `make-secrets.sh`."""
    folders = {"tls": pod, "applications": "applications", "encoders": "encoders"}
    for mount, folder in folders.items():
        words = [word.replace(f"{MOUNTED}{mount}/", f"{secrets / folder}/") for word in words]
    assert not any(MOUNTED in word for word in words)
    return words


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secrets") / "made"
    subprocess.run(["sh", COMPONENT / "make-secrets.sh", folder], check=True, capture_output=True)
    return folder


def test_every_mounted_secret_is_made(secrets: Path) -> None:
    made = {
        one["metadata"]["name"]: set(one["data"]) for one in yaml.safe_load_all((secrets / "secrets.yaml").read_text())
    }
    for file in ("encoder.yaml", "gateway.yaml"):
        pod = read(file)["spec"]["template"]["spec"]
        assert {volume["secret"]["secretName"] for volume in pod["volumes"]} <= set(made)
    assert made["visionsplit-llm-tls"] == made["visionsplit-encoder-tls"] == {"tls.crt", "tls.key", "ca.crt"}
    assert made["visionsplit-applications"] == made["visionsplit-encoders"] == {"tokens"}


async def test_services_with_these_options_know_each_other_and_their_callers(
    random_checkpoints: dict[str, Path], secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = LLM.read(["--model=m", *mounted(added_options("visionsplit-llm"), "llm", secrets)])
    encoder = ENCODER.read(["--model=m", *mounted(added_options("visionsplit-encoder"), "encoder", secrets)])
    to_llm = encoder.llm_security
    assert to_llm.tls is not None
    # In a cluster, the address has the certificate's name.
    to_llm = replace(to_llm, tls=replace(to_llm.tls, server_name="visionsplit-llm"))
    caller = ClientSecurity(
        ClientTls(ca=secrets / "ca.crt", server_name="visionsplit-encoder"),
        BearerToken(value=(secrets / "applications" / "tokens").read_text().split()[1]),
    )
    async with running_system(
        random_checkpoints["llama"],
        llm={"security": llm.security},
        encoder={"security": encoder.security, "llm_security": to_llm},
        security=caller,
    ) as system:
        answer = await system.client.generate(noise_image(60, 60), "What is this?", sampling=Sampling(max_new_tokens=4))
        assert answer.token_ids
        async with AsyncClient(system.encoder_address, security=replace(caller, token=None)) as stranger:
            with pytest.raises(UnauthenticatedError):
                await stranger.encoder_info()
        for file, pod, address in (
            ("encoder.yaml", "encoder", system.encoder_address),
            ("gateway.yaml", "llm", system.llm_address),
        ):
            (container,) = read(file)["spec"]["template"]["spec"]["containers"]
            _, *words = container["readinessProbe"]["exec"]["command"]
            words[1] = address
            assert await asyncio.to_thread(main, mounted(words, pod, secrets)) == 0, capsys.readouterr().err
