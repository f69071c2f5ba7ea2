"""The encoder as a process: its command line, its signals, and what it keeps in memory."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from visionsplit.errors import InvalidCompressionError
from visionsplit.options.compression import DEFAULT_RATIO, Compression
from visionsplit.options.data_types import DataType

from encoder_service.__main__ import main
from encoder_service.compression import METHODS, compose
from encoder_service.config import PROGRAM, EncoderConfig
from encoder_service.server import SERVICE_NAME, EncoderServer
from tests.unit.encoder.helpers import running_encoder

HANGS = 300.0  # seconds; a process that takes longer on a busy machine hangs


def config_of(*arguments):
    return PROGRAM.read(["--model", "m", *arguments])


def compression_of(config):
    return Compression(config.default_method, config.retention_ratio)


def test_the_command_line_has_the_configurations_defaults():
    assert config_of() == EncoderConfig(model="m")


def test_the_command_line_reaches_the_configuration():
    config = config_of("--method", "globalcom2", "--retention-ratio", "0.2", "--data-type", "int8", "--max-images", "3")
    assert compression_of(config) == Compression("globalcom2", 0.2)
    assert config.data_type is DataType.INT8
    assert config.max_images == 3


def test_several_llm_services_by_commas_or_by_repetition():
    assert config_of("--llm", "a:1,b:2", "--llm", "c:3").llm == ("a:1", "b:2", "c:3")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--chunk-bytes", "1"),
        ("--max-batch-tiles", "0"),
        ("--cache-bytes", "-1"),
        ("--cache-dir-bytes", "0"),
        ("--max-calls", "-1"),
        ("--max-batch-wait-ms", "nan"),
        ("--max-batch-wait-ms", "-1"),
        ("--grace", "-1"),
        ("--grace", "nan"),
        ("--device", "foo"),
        ("--device", "mps"),
        ("--listen", "nonsense"),
        ("--listen", "127.0.0.1:http"),
        ("--listen", "127.0.0.1:99999"),
        ("--llm", "127.0.0.1:99999"),
    ],
)
def test_settings_out_of_range_are_refused_by_the_options_name(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        config_of(*arguments)
    assert re.match(rf"visionsplit-encoder: argument [^:]*{arguments[0]}\b", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Compression("none")),
        (["--method=", "--retention-ratio="], Compression("none")),  # a deployment's variables that are not set
        (["--retention-ratio", "0.1"], Compression("globalcom2-diverse", 0.1)),
        (["--ratio", "0.1"], Compression("globalcom2-diverse", 0.1)),
        (["--method=", "--retention-ratio=0.1"], Compression("globalcom2-diverse", 0.1)),
        (["--method=hired", "--retention-ratio=0.1"], Compression("hired", 0.1)),
        (["--method=none", "--retention-ratio=1"], Compression("none", 1.0)),
    ],
    ids=str,
)
def test_method_and_ratio(arguments, expected):
    assert compression_of(config_of(*arguments)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_method_alone_can_be_the_default(method):
    text_tower = ("--text-tower", "clip") if method == "cdpruner" else ()
    composition = compose(compression_of(config_of("--method", method, "--retention-ratio=", *text_tower)))
    assert composition.retention_ratio == {"none": 1, "prumerge": None, "prumerge+": None}.get(method, DEFAULT_RATIO)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        *((["--retention-ratio", text], "--retention-ratio") for text in ("0", "25", "-1", "nan", "inf", "1.01", "a")),
        (["--method", "none", "--ratio", "0.5"], "--method none"),
        (["--max-calls", "0"], "--max-calls"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_refused_before_pytorch_is_imported(arguments, named):
    code = (
        "import sys\nfrom encoder_service.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--model", "m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_default_method_is_refused_at_the_start():
    with pytest.raises(InvalidCompressionError):
        EncoderServer(config_of("--method", "best"))


async def test_ctrl_c_ends_the_process_cleanly(random_checkpoints):
    """Of either service; test_drain.py sends SIGTERM to both."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "encoder_service", "--model", str(random_checkpoints["llama"]), "--listen", "127.0.0.1:0",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(HANGS):
            lines = [await process.stderr.readline()]
            while b"serving llama on 127.0.0.1:" not in lines[-1]:
                assert lines[-1], b"".join(lines)
                lines.append(await process.stderr.readline())
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def taken_port():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.usefixtures("service_log_levels")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--device", "cuda:99"), "device is 'cuda:99'; PyTorch finds"),
        (("--max-queued-tiles", "4"), "max_queued_tiles is 4; one image of this checkpoint takes 5"),
        (("--model", "/no/such/folder"), "there is no folder 'folder'"),
        (("--listen", "127.0.0.1:{taken}"), "cannot listen on 127.0.0.1:{taken}"),
    ],
)
def test_what_keeps_the_encoder_from_serving_is_said_in_a_line(
    random_checkpoints, caplog, taken_port, arguments, reason
):
    """In this process, because a separate one for each would take most of a minute of a busy machine."""
    arguments = [argument.format(taken=taken_port) for argument in arguments]
    reason = reason.format(taken=taken_port)
    assert main(["--model", str(random_checkpoints["llama"]), *arguments]) == 1
    (line,) = [record for record in caplog.records if record.name == "encoder_service"]
    assert f"cannot serve: {reason}" in line.getMessage()
    assert line.exc_info is None


SLOW_START = """
import sys, time
from encoder_service import server
from encoder_service.__main__ import main

def load(self):
    print("loading", flush=True)
    time.sleep(300)

server.EncoderServer._load = load
sys.exit(main(["--model", "m"]))
"""


async def test_a_signal_during_the_start_ends_the_process_at_once():
    """Here SIGTERM; the LLM service's test sends SIGINT."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SLOW_START, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(HANGS):
        await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert b"told to stop while starting" in log
    assert b"Traceback" not in log


async def test_health_and_reflection(random_checkpoints):
    async with (
        running_encoder(random_checkpoints["llama"]) as (server, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        for name in ("", SERVICE_NAME):
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        reply = await call.read()
        names = {service.name for service in reply.list_services_response.service}
        assert {SERVICE_NAME, "grpc.health.v1.Health"} <= names
        call.cancel()


async def test_no_thread_is_left(random_checkpoints):
    async with running_encoder(random_checkpoints["llama"]) as (_, _stub):
        pass
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("encoder")]
