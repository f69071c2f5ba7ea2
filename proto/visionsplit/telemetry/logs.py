"""Sets up a service's log: text for people, or one JSON object per line for programs."""

import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry import trace

from visionsplit.serving.call_log import current_request_id
from visionsplit.telemetry.log_lines import MAX_MESSAGE_CHARACTERS, LineFormatter, trace_lines
from visionsplit.visible import shortened

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_DELETE = "\x7f"  # the only control character that JSON need not escape
# Limits for libraries. gRPC, for example, logs a traceback for each call whose metadata is not UTF-8.
_MAX_RECORDS = 20
_RECORDS_SECONDS = 60.0


class JsonFormatter(logging.Formatter):
    """Writes one object per line: time, level, service, logger and message; request_id and trace_id if there is one;
    and the additional fields of a call's line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": shortened(record.getMessage(), MAX_MESSAGE_CHARACTERS),
        }
        if (request_id := current_request_id()) is not None:
            line["request_id"] = request_id
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = trace.format_trace_id(span.trace_id)
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = "\n".join(trace_lines(self, record))
        return json.dumps(line, default=str).replace(_DELETE, "\\u007f")


class LimitedRecords(logging.Filter):
    """Limits how many records each library logger writes per minute, and reports how many were dropped."""

    def __init__(self, ours: tuple[str, ...], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._ours = ours
        self._clock = clock
        self._counts: dict[str, _Count] = {}  # by logger name; these are constants in code, so their number is bounded

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in self._ours:
            return True
        now = self._clock()
        count = self._counts.setdefault(record.name, _Count(now))
        if now - count.began >= _RECORDS_SECONDS:
            self._counts[record.name] = _Count(now, 1)
            if (left_out := count.records - _MAX_RECORDS) > 0:
                record.msg = f"{record.getMessage()} ({left_out} messages before it were left out)"
                record.args = ()
            return True
        count.records += 1
        return count.records <= _MAX_RECORDS


@dataclass
class _Count:
    """The number of records of one logger since a moment."""

    began: float
    records: int = 0


def configure_logging(service: str, *, level: str, form: str, loggers: tuple[str, ...]) -> None:
    """Log to stderr: all loggers' warnings, and the named loggers' records from `level` on. `form`: text or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if form == "json" else LineFormatter(_TEXT))
    handler.addFilter(LimitedRecords(loggers))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in loggers:
        logging.getLogger(name).setLevel(level)
