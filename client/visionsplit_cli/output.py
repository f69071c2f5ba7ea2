"""The tool's streams: any text can be written to them, and none does anything to a terminal but show."""

import codecs
import io
import os
import sys
from pathlib import Path

from visionsplit.visible import one_line


def prepare_streams() -> None:
    """Make stdout and stderr take whatever is printed.

    A stream that the shell has closed (`>&-`) is None; then the next file or socket opened would get its number. What
    the encoding of a stream does not have, such as an umlaut in an ASCII locale, is written as an escape.
    """
    nowhere = Path(os.devnull)
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def abandon_stdout() -> None:
    """Let nothing be written to stdout any more, also when the interpreter flushes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"visionsplit: {one_line(message)}", file=sys.stderr, flush=True)


def takes_unicode() -> bool:
    """Whether stdout can be written any character."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
