"""The tool's streams: any text can be written to them, and none does anything to a terminal but show."""

import codecs
import io
import os
import re
import sys
from pathlib import Path

# Control characters but line breaks and tabs, marks that turn the direction of text around, and what stands for the
# bytes of a file name that is not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAKS = re.compile("[\t\n\u2028\u2029]")


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


def visible(text: str) -> str:
    """Text in which a terminal finds no commands: control characters are written as \\uXXXX, as in JSON."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str) -> str:
    """The same for what must stay on its line, such as a file's name."""
    return _LINE_BREAKS.sub(_escaped, visible(text))


def warn(message: str) -> None:
    """One line on stderr."""
    print(f"visionsplit: {one_line(message)}", file=sys.stderr, flush=True)


def takes_unicode() -> bool:
    """Whether stdout can be written any character."""
    return codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
