"""Makes untrusted text safe to show: without terminal commands, on one line, and of bounded length."""

import re

# Control characters except line breaks and tabs, marks that reverse the direction of text, and the surrogates that
# stand for bytes of a file name that is not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAKS = re.compile("[\t\n\u2028\u2029]")


def visible(text: str) -> str:
    """The text without terminal commands: control characters are written as \\uXXXX, as in JSON."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str) -> str:
    """The same with line breaks and tabs escaped as well, for text that must stay on one line, such as a file name."""
    return _LINE_BREAKS.sub(_escaped, visible(text))


def shortened(text: str, most: int) -> str:
    """The text, or its first `most` characters followed by its full length."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def counted(number: int, noun: str) -> str:
    """A number with a noun, such as "1 layer" or "2 layers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
