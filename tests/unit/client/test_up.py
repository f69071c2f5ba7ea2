"""`visionsplit up` with stand-ins for the services: real processes and signals, without a model."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from visionsplit.security.tokens import read_tokens
from visionsplit_cli import main
from visionsplit_cli.local_services.ports import free_addresses
from visionsplit_cli.local_services.processes import Service
from visionsplit_cli.options import METRICS

from tests.certificates import Authority
from tests.proxies import running_proxy

SERVICE = """
    import argparse, os, pathlib, signal, subprocess, sys, threading
    from concurrent.futures import ThreadPoolExecutor
    import grpc
    from grpc_health.v1 import health, health_pb2_grpc

    name = pathlib.Path(__file__).parent.name
    folder = pathlib.Path(os.environ["FAKE_FOLDER"])
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen")
    options, rest = parser.parse_known_args()
    (folder / f"{name}.arguments").write_text(" ".join(sys.argv[1:]))
    if os.environ.get("FAKE_CRASH") == name:
        sys.exit(3)
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    assert server.add_insecure_port(options.listen)
    child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (folder / f"{name}.pids").write_text(f"{os.getpid()} {child.pid}")
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    server.start()
    told.wait()
    with (folder / "stopped").open("a") as file:
        print(name, file=file)
    server.stop(0)
"""


@pytest.fixture
def environment(tmp_path):
    for name in ("encoder_service", "llm_service"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__main__.py").write_text(textwrap.dedent(SERVICE))
        (tmp_path / name / "__init__.py").touch()
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "FAKE_FOLDER": str(tmp_path)}


def start(environment, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "import sys, visionsplit_cli as c; sys.exit(c.main())", "up"]
    ports = ["--encoder", "127.0.0.1:0", "--llm", "127.0.0.1:0", "--model", "some-model"]
    return subprocess.Popen(
        [*command, *ports, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def pids(folder: Path) -> list[int]:
    return [
        int(pid) for name in ("encoder_service", "llm_service") for pid in (folder / f"{name}.pids").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for_line(process: subprocess.Popen, text: str) -> list[str]:
    lines = []
    while text not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
        lines.append(line.strip())
    return lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_serve_and_stop_in_order(environment, tmp_path, number):
    extra = ["--llm-args=--page-size 16", "--encoder-args=--max-calls 8 --method globalcom2"]
    process = start(environment, "--backend", "ray", "--replicas", "2", "--device", "cpu", *extra)
    llm, encoder = (line.rpartition(": ")[2] for line in wait_for_line(process, "ready"))
    running = pids(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert (tmp_path / "stopped").read_text().split() == ["encoder_service", "llm_service"]
    assert not any(alive(pid) for pid in running)
    arguments = (tmp_path / "encoder_service.arguments").read_text()
    assert arguments.endswith("--max-calls 8 --method globalcom2")
    assert f"--listen {encoder} --llm {llm} --model some-model" in arguments
    arguments = (tmp_path / "llm_service.arguments").read_text()
    assert err.startswith("visionsplit: starting the LLM service and the encoder service with some-model ...\n")
    assert "--backend ray --replicas 2" in arguments
    assert arguments.endswith("--page-size 16")
    assert "--metrics" not in arguments


def test_a_proxy_does_not_stand_between(environment):
    with running_proxy() as proxy:
        process = start(environment | proxy.environment())
        wait_for_line(process, "ready")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert proxy.requests == []


def test_a_service_that_cannot_be_asked_is_given_up_with_the_reason(environment, tmp_path, monkeypatch):
    """The stand-ins speak no TLS. A certificate of another host looks the same to a health check."""
    service = Authority(tmp_path).issue("service")
    tls = [f"--tls-{name}={path}" for name, path in (("cert", service.certificate), ("key", service.key))]
    started = time.monotonic()
    process = start(environment, *tls, "--tls-ca", str(tmp_path / "authority.pem"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "service is running, but cannot be asked how it is: the service at 127.0.0.1:" in err
    assert time.monotonic() - started < 60  # of the 600 seconds that services may take to load
    running = pids(tmp_path)
    assert not any(alive(pid) for pid in running)


def test_metrics_are_switched_on_together(environment, tmp_path):
    process = start(environment, "--metrics")
    wait_for_line(process, "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    for service, address in METRICS.items():
        assert f"--metrics {address}" in (tmp_path / f"{service}_service.arguments").read_text()


def test_the_encoder_has_a_token_of_its_own_for_the_llm_service(environment, tmp_path):
    """It is marked, so that no application is believed when it says on whose behalf it calls."""
    applications = tmp_path / "applications"
    applications.write_text("alice 0123456789abcdef\n")
    process = start(environment, "--token-file", str(applications))
    wait_for_line(process, "ready")
    encoder = (tmp_path / "encoder_service.arguments").read_text().split()
    sent = Path(encoder[encoder.index("--llm-token-file") + 1])
    assert encoder[encoder.index("--token-file") + 1] == str(applications)
    assert encoder.count("--token-file") == 1
    llm = (tmp_path / "llm_service.arguments").read_text().split()
    files = [llm[index + 1] for index, word in enumerate(llm) if word == "--token-file"]
    assert files == [str(applications), str(sent)]
    (line,) = read_tokens(sent)
    assert (line.name, line.relay) == ("encoder", True)
    assert sent.parent.stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert not sent.parent.exists()


def test_a_service_that_cannot_start_is_reported_and_the_other_stopped(environment, tmp_path):
    process = start(environment | {"FAKE_CRASH": "llm_service"}, "--quiet")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the LLM service ended with exit code 3" in err
    assert "starting" not in err  # --quiet
    assert out == ""
    left = (
        (tmp_path / "encoder_service.pids").read_text().split() if (tmp_path / "encoder_service.pids").exists() else []
    )
    assert not any(alive(int(pid)) for pid in left)


def test_a_service_that_dies_later_is_reported(environment, tmp_path):
    process = start(environment)
    wait_for_line(process, "ready")
    running = pids(tmp_path)
    os.kill(running[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the encoder service ended with signal SIGKILL" in err
    assert not any(alive(pid) for pid in running)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_services_end_even_if_up_is_killed(environment, tmp_path):
    process = start(environment)
    wait_for_line(process, "ready")
    services = pids(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    while alive(services[0]) or alive(services[2]):
        time.sleep(0.02)
    for child in (services[1], services[3]):  # the stand-ins leave their own children behind
        os.kill(child, signal.SIGKILL)


def test_a_taken_address_is_refused_before_anything_starts(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["up", "--encoder", address, "--llm", "127.0.0.1:0", "--model", "m"]) == 1
    assert capsys.readouterr().err == f"visionsplit: cannot listen on {address}: Address already in use\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--encoder", "localhost"],
        ["--encoder", ":50051"],
        ["--llm", "host:port"],
        ["--llm", "host:99999"],
        ["--llm", "unix:/run/llm"],
        ["--dtype", "int4"],
        ["--encoder", "127.0.0.1:7000", "--llm", "127.0.0.1:7000"],
        ["--model", "./no-such-folder"],
        ["--model", "tests/no-such-folder"],
        ["--model", "/no-such-folder"],
        ["--llm-args", "'"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_seen_before_anything_starts(options, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    monkeypatch.setattr(Service, "start", lambda service: pytest.fail(f"the {service.name} was started"))
    with pytest.raises(SystemExit) as ended:
        main(["up", "--model", "m", *options])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert options[-1] in line


def test_free_ports_differ():
    assert len(set(free_addresses(["127.0.0.1:0", "127.0.0.1:0"]))) == 2


def test_other_names_of_one_address_are_seen(capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert main(["up", "--encoder", f"127.0.0.1:{port}", "--llm", f"localhost:{port}", "--model", "m"]) == 1
    assert "Address already in use" in capsys.readouterr().err
