"""Logs as a process writes them, the client without OpenTelemetry, quantiles of histograms."""

import json
import logging
import subprocess
import sys

import pytest
from visionsplit.telemetry.logs import LimitedRecords
from visionsplit_cli.top.samples import Samples

LOG = """
import logging
from visionsplit.telemetry.logs import configure_logging
from visionsplit.serving.call_log import log_call

configure_logging("encoder", level="INFO", form=FORM, loggers=("encoder_service",))
log = logging.getLogger("encoder_service.x")
with log_call(log, "id-1", "Encode") as record:
    log.warning("two\\nlines")
    record.fields["wire_bytes"] = 7
logging.getLogger("another").info("not shown")
try:
    raise ValueError("first\\n2026-01-01 00:00:00,000 INFO forged\\x1b[2J\\x7f\\u2028\\ud800" + "x" * 10**6 + "\\nlast")
except ValueError:
    log.exception("failed")
"""


def stderr_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_json_object_a_line() -> None:
    warning, call, failed = map(json.loads, stderr_of(f"FORM = 'json'\n{LOG}").splitlines())
    assert (warning["message"], warning["level"], warning["request_id"]) == ("two\nlines", "WARNING", "id-1")
    assert (call["service"], call["logger"]) == ("encoder", "encoder_service.x")
    assert (call["method"], call["status"], call["wire_bytes"]) == ("Encode", "OK", 7)
    assert call["time"].endswith("+00:00")
    assert failed["message"] == "failed"
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert len(failed["exception"]) < 5000


def test_text_is_for_people() -> None:
    warning, call, failed, *trace = stderr_of(f"FORM = 'text'\n{LOG}").splitlines()
    assert warning.endswith("WARNING encoder_service.x: two\\u000alines")
    assert "INFO encoder_service.x: request id-1 after 0.00" in call
    assert failed.endswith("ERROR encoder_service.x: failed")
    assert all(line.startswith("    ") for line in trace)
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-2].startswith("    2026-01-01 00:00:00,000 INFO forged\\u001b[2J\\u007f\\u2028\\ud800xxx")
    assert trace[-2].endswith(" characters)")
    assert trace[-1] == "    last"


def test_a_library_that_logs_much_is_cut_short() -> None:
    seconds = 0.0
    limit = LimitedRecords(("llm_service",), clock=lambda: seconds)

    def passes(name: str) -> str | None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, "bad %s", ("key",), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes("grpc._cython.cygrpc") for _ in range(100)] == ["bad key"] * 20 + [None] * 80
    assert passes("asyncio") == "bad key"
    assert all(passes("llm_service.gateway.service") for _ in range(100))
    seconds = 60.0
    assert passes("grpc._cython.cygrpc") == "bad key (80 messages before it were left out)"
    assert passes("grpc._cython.cygrpc") == "bad key"


def test_the_client_does_without_opentelemetry() -> None:
    stderr_of(
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from visionsplit_client import Client\n"
        "from visionsplit_client._tracing import INSTALLED, CallTrace\n"
        "trace = CallTrace('EncoderService/Generate', (('x-request-id', '1'),))\n"
        "with trace.running():\n"
        "    assert trace.metadata() == (('x-request-id', '1'),)\n"
        "assert not INSTALLED\n"
    )


def histogram(**buckets: float) -> Samples:
    return Samples({("t_bucket", frozenset({("le", bound[1:].replace("_", "."))})): n for bound, n in buckets.items()})


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({"b1": 10, "b2": 20, "binf": 20}, 0.25, 0.5),
        ({"b1": 10, "b2": 20, "binf": 20}, 0.75, 1.5),
        ({"b1": 0, "b2": 4, "binf": 4}, 0.5, 1.5),
        ({"b1": 0, "b2": 0, "binf": 4}, 0.5, 2.0),  # beyond the last bound: no more is known
        ({"b1": 0, "b2": 0, "binf": 0}, 0.5, None),
    ],
)
def test_quantiles(buckets: dict[str, float], share: float, expected: float | None) -> None:
    assert histogram(**buckets).quantile("t", share) == expected


def test_what_has_been_added_since() -> None:
    none = frozenset[tuple[str, str]]()
    gauges = frozenset({"g", "start_time_seconds"})
    early = Samples({("c", none): 5.0, ("g", none): 9.0, ("start_time_seconds", none): 1.0}, gauges)
    late = Samples({("c", none): 8.0, ("g", none): 2.0, ("start_time_seconds", none): 1.0}, gauges)
    assert late.since(early).total("c") == 3
    assert late.since(early).total("g") == 2
    restarted = Samples({("c", none): 1.0, ("start_time_seconds", none): 2.0}, gauges)
    assert restarted.since(late).total("c") == 1
