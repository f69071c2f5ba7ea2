"""Real nginx with the shipped configuration in front of a real encoder. Only addresses and times differ."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from visionsplit_client import Client, ClientSecurity, ClientTls

from benchmarks.load.system import Service, System, free_port
from tests.certificates import Authority
from tests.conftest import ROOT

CONFIGURATION = ROOT / "deploy" / "proxy" / "nginx.conf"
QUICK = {
    "client_header_timeout 10s": "client_header_timeout 2s",
    "client_body_timeout 20s": "client_body_timeout 2s",
    "keepalive_timeout 60s": "keepalive_timeout 2s",
}


def adapted(folder: Path, changes: dict[str, str]) -> Path:
    """The shipped configuration with some texts replaced, each of which it must contain."""
    text = CONFIGURATION.read_text()
    for old, new in changes.items():
        assert old in text, f"{CONFIGURATION} no longer contains {old!r}"
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Proxy:
    address: str
    authority: Path
    encoder: Service

    def client(self, **options: object) -> Client:
        return Client(self.address, security=ClientSecurity(ClientTls(ca=self.authority)), **options)


@pytest.fixture(scope="session")
def nginx() -> str:
    path = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if path is None:
        pytest.fail("these tests need nginx with its stream module: apt-get install nginx-light libnginx-mod-stream")
    return path


@pytest.fixture(scope="session")
def system(random_checkpoints: dict[str, Path]) -> Iterator[System]:
    with System.of(str(random_checkpoints["llama"]), encoders=1) as system:
        yield system


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, system: System) -> dict[str, str]:
    """Texts of the configuration that depend on the machine, and what stands for them here."""
    folder = tmp_path_factory.mktemp("proxy")
    gone, encoder = f"127.0.0.1:{free_port()}", system.encoders[0].address
    pair = Authority(folder).issue("proxy")
    return {
        "/run/visionsplit-proxy": str(folder / "proxy"),
        "/etc/visionsplit-proxy/proxy.pem": str(pair.certificate),
        "/etc/visionsplit-proxy/proxy.key": str(pair.key),
        "0.0.0.0:50443": f"127.0.0.1:{free_port()}",
        "127.0.0.1:9053": f"127.0.0.1:{free_port()}",
        "server encoder:50051": f"server {gone} max_fails=1;\n        server {encoder}",
    }


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def proxy(
    nginx: str, system: System, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("nginx")
    path = adapted(folder, {**places, **QUICK})
    log = (folder / "log").open("wb")
    # As root, so that it reaches the folders of this test.
    process = subprocess.Popen([nginx, "-c", path, "-g", "daemon off; user root;"], stdout=log, stderr=log)
    host, _, port = places["0.0.0.0:50443"].partition(":")
    try:
        while not listens(host, int(port)):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        authority = Path(places["/etc/visionsplit-proxy/proxy.pem"]).parent / "authority.pem"
        yield Proxy(f"{host}:{port}", authority, system.encoders[0])
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()
