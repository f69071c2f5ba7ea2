"""One trace from the client to the replica, received as an OpenTelemetry collector receives it."""

import asyncio
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from visionsplit.errors import InvalidSamplingError, PromptTooLongError
from visionsplit.telemetry.config import TelemetryConfig, otlp_endpoint_of
from visionsplit.telemetry.logs import JsonFormatter
from visionsplit_client import Client, Compression, Sampling

from encoder_service.config import PROGRAM
from tests.integration.system import running_system
from tests.noise import noise_image

KEEP_HALF = Compression("globalcom2", 0.5)
STAGES = {
    "EncoderService/Generate": "client",
    "preprocess": "EncoderService/Generate",
    "encode": "EncoderService/Generate",
    "LlmService/Generate": "EncoderService/Generate",
    "upload": "LlmService/Generate",
    "relay": "LlmService/Generate",
    "receive": "LlmService/Generate",
    "replica": "LlmService/Generate",
    "prefill": "replica",
    "decode": "replica",
}


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes what services send."""

    spans: list[tuple[str, trace_pb2.Span]] = field(default_factory=list)  # with their service
    address: str = ""

    def Export(self, request, context):  # noqa: N802
        for resource in request.resource_spans:
            names = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(names["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """It is on this machine, as both services are, so no connection may go through a proxy."""
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")  # where nothing listens
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(None)


@pytest.fixture(scope="module")
def application() -> InMemorySpanExporter:
    """What an application sets up for itself; the client's spans go there."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def attributes(span: trace_pb2.Span) -> dict[str, object]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in span.attributes}


def short(span: trace_pb2.Span) -> str:
    return span.name.removeprefix("visionsplit.v1.")


async def test_one_trace(
    random_checkpoints: dict[str, Path], collector: Collector, application: InMemorySpanExporter
) -> None:
    telemetry = {"telemetry": TelemetryConfig(otlp_endpoint=collector.address)}
    lines = _Lines()
    async with running_system(random_checkpoints["llama"], encoder=telemetry, llm=telemetry) as system:
        application.clear()
        with trace.get_tracer("application").start_as_current_span("question") as question, lines:
            answer = await system.client.generate(
                noise_image(100, 90), "secret?", compression=KEEP_HALF, sampling=Sampling(max_new_tokens=4)
            )
            with pytest.raises(InvalidSamplingError):
                await system.client.generate(None, "secret?", sampling=Sampling(temperature=-1))
    trace_id = question.get_span_context().trace_id
    own = {span.context.span_id: span for span in application.get_finished_spans()}
    calls = [span for span in own.values() if span.name == "visionsplit.v1.EncoderService/Generate"]
    assert [span.parent.span_id for span in calls] == [question.get_span_context().span_id] * 2
    assert calls[1].attributes["error.type"] == "InvalidSamplingError"

    spans = {span.span_id: span for _, span in collector.spans}
    assert {int.from_bytes(span.trace_id) for span in spans.values()} == {trace_id}
    services = {name for name, _ in collector.spans}
    assert services == {"visionsplit-encoder", "visionsplit-llm", "visionsplit-llm-replica"}
    _check_parents(spans, calls[0].context.span_id)
    by_name = {(service, short(span)): attributes(span) for service, span in reversed(collector.spans)}
    kept = answer.images[0]
    encode = by_name["visionsplit-encoder", "encode"]
    assert encode["visionsplit.tokens_before"] == kept.tokens_before
    assert encode["visionsplit.tokens_after"] == kept.tokens_after
    assert encode["visionsplit.wire_bytes"] == kept.wire_bytes
    assert encode["visionsplit.compression"] == "globalcom2"
    assert by_name["visionsplit-llm-replica", "decode"]["visionsplit.generated_tokens"] == answer.usage.generated_tokens
    wrong = trace_pb2.Status.STATUS_CODE_ERROR
    failed = [(name, attributes(span)) for name, span in collector.spans if span.status.code == wrong]
    assert {name for name, _ in failed} == {"visionsplit-encoder", "visionsplit-llm"}
    assert {attribute["error.type"] for _, attribute in failed} == {"InvalidSamplingError"}
    assert "secret" not in str(collector.spans)
    _check_lines(lines.lines, trace_id, kept.wire_bytes)


def _check_parents(spans: dict[bytes, trace_pb2.Span], client_span: int) -> None:
    """Of the first call, which is the one with a replica."""
    children = {short(span): span for span in spans.values()}
    for span in spans.values():
        if int.from_bytes(span.parent_span_id) == client_span:
            children["EncoderService/Generate"] = span
    replica = children["replica"]
    while replica.parent_span_id in spans:  # up to the encoder's span of this call
        replica = spans[replica.parent_span_id]
    assert replica.span_id == children["EncoderService/Generate"].span_id
    for span in spans.values():
        parent = spans.get(span.parent_span_id)
        if parent is not None and short(span) in STAGES:
            assert short(parent) == STAGES[short(span)] or short(span) == short(parent) == "LlmService/Generate"
            assert parent.start_time_unix_nano - span.start_time_unix_nano < 50_000_000
    assert {short(span) for span in spans.values()} == {*STAGES, "queue"}
    assert {short(spans[s.parent_span_id]) for s in spans.values() if s.name == "queue"} == {
        "EncoderService/Generate",
        "replica",
    }


class _Lines(logging.Handler):
    """The services' lines as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonFormatter("test"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def __enter__(self) -> "_Lines":
        self._before = {name: logging.getLogger(name).level for name in ("encoder_service", "llm_service")}
        for name in self._before:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).setLevel(logging.INFO)
        return self

    def __exit__(self, *error: object) -> None:
        for name, level in self._before.items():
            logging.getLogger(name).removeHandler(self)
            logging.getLogger(name).setLevel(level)


def _check_lines(lines: list[str], trace_id: int, wire_bytes: int) -> None:
    calls = [line for line in map(json.loads, lines) if "method" in line]
    assert {line["trace_id"] for line in calls} == {f"{trace_id:032x}"}
    assert len({line["request_id"] for line in calls}) == 2
    fine = [line for line in calls if line["status"] == "OK"]
    assert {line["logger"] for line in fine} == {"encoder_service.api.service", "llm_service.gateway.service"}
    assert {line["wire_bytes"] for line in fine} == {wire_bytes}
    assert all(line["duration_seconds"] > 0 and line["level"] == "INFO" for line in fine)
    refused = [line for line in calls if line["status"] == "INVALID_ARGUMENT"]
    assert {line["error"] for line in refused} == {"InvalidSamplingError"}
    assert "secret" not in "".join(lines)


async def test_prompts_are_logged_where_that_is_wished(random_checkpoints: dict[str, Path]) -> None:
    telemetry = {"telemetry": TelemetryConfig(log_prompts=True)}
    lines = _Lines()
    async with running_system(random_checkpoints["llama"], encoder=telemetry, llm=telemetry) as system:
        with lines:
            await system.client.generate(None, "secret", sampling=Sampling(max_new_tokens=1))
            with pytest.raises(PromptTooLongError):
                await system.client.generate(None, "long" * 1000)
    prompts = [line["prompt"] for line in map(json.loads, lines.lines) if "prompt" in line]
    assert sum("secret" in prompt for prompt in prompts) == 2  # of each service
    assert [len(prompt) for prompt in prompts if "long" in prompt] == [2000]


async def test_a_collector_that_is_not_there_costs_no_answer(
    random_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds; what is left is tried again when the service stops
    telemetry = {"telemetry": TelemetryConfig(otlp_endpoint="http://127.0.0.1:1")}
    async with running_system(random_checkpoints["llama"], encoder=telemetry) as system:

        def ask() -> str:
            with Client(system.encoder_address) as client:
                return client.generate(None, "hello", sampling=Sampling(max_new_tokens=2)).text

        assert isinstance(await asyncio.to_thread(ask), str)


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, "http://a:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://b:1", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "https://b:1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_the_standard_variables(environment: dict[str, str], endpoint: str | None) -> None:
    assert PROGRAM.read(["--model", "m"], environment).telemetry.otlp_endpoint == endpoint


def test_another_protocol_is_refused() -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    with pytest.raises(ValueError, match="over grpc only"):
        otlp_endpoint_of(environment)
    with pytest.raises(ValueError, match="http://HOST:PORT is needed"):
        TelemetryConfig(otlp_endpoint="collector:4317")
