"""Log formatting that keeps a caller's text from forging lines or growing them without limit."""

import logging

from visionsplit.visible import one_line, shortened

# A logged prompt has up to 2000 characters, and escaping may turn each of them into as many as ten.
MAX_MESSAGE_CHARACTERS = 8000
_MAX_TRACE_LINES = 120
_MAX_TRACE_LINE_CHARACTERS = 1000


class LineFormatter(logging.Formatter):
    """Writes a record on one line and its traceback indented below, so that only a record starts at a line's start."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = one_line(shortened(record.getMessage(), MAX_MESSAGE_CHARACTERS))
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return "\n    ".join([self.formatMessage(record), *trace_lines(self, record)])


def trace_lines(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The lines of a record's traceback, if it has one; of a long one only the beginning and the end."""
    # Not `splitlines`, which would split at characters that `one_line` escapes.
    text = formatter.formatException(record.exc_info) if record.exc_info else record.stack_info or ""
    lines = text.split("\n") if text else []
    if len(lines) > _MAX_TRACE_LINES:
        half = _MAX_TRACE_LINES // 2
        lines = [*lines[:half], f"… ({len(lines)} lines)", *lines[-half:]]
    return [one_line(shortened(line, _MAX_TRACE_LINE_CHARACTERS)) for line in lines]
