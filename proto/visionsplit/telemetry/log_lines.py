"""Log lines that no text of a caller can forge or make long, in services and in the command-line tools."""

import logging

from visionsplit.visible import one_line, shortened

# A prompt that is logged has up to 2000 characters, each of which an escape may make ten.
MAX_MESSAGE_CHARACTERS = 8000
_MAX_TRACE_LINES = 120
_MAX_TRACE_LINE_CHARACTERS = 1000


class LineFormatter(logging.Formatter):
    """A record on one line. Below it, indented, the lines of its traceback: only a record begins at a line's start."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = one_line(shortened(record.getMessage(), MAX_MESSAGE_CHARACTERS))
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return "\n    ".join([self.formatMessage(record), *trace_lines(self, record)])


def trace_lines(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """A record's traceback, if it has one: its beginning and its end, where it is long."""
    # Not `splitlines`, which splits at characters that `one_line` shows.
    text = formatter.formatException(record.exc_info) if record.exc_info else record.stack_info or ""
    lines = text.split("\n") if text else []
    if len(lines) > _MAX_TRACE_LINES:
        half = _MAX_TRACE_LINES // 2
        lines = [*lines[:half], f"… ({len(lines)} lines)", *lines[-half:]]
    return [one_line(shortened(line, _MAX_TRACE_LINE_CHARACTERS)) for line in lines]
