"""Text of others as it may be shown: it does nothing to a terminal, stays on its line, and is of bounded length."""

import re

# Control characters but line breaks and tabs, marks that turn the direction of text around, and what stands for the
# bytes of a file name that is not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_BREAKS = re.compile("[\t\n\u2028\u2029]")


def visible(text: str) -> str:
    """Text in which a terminal finds no commands: control characters are written as \\uXXXX, as in JSON."""
    return _UNPRINTABLE.sub(_escaped, text)


def one_line(text: str) -> str:
    """The same for what must stay on its line, such as a file's name."""
    return _LINE_BREAKS.sub(_escaped, visible(text))


def shortened(text: str, most: int) -> str:
    """The text, or its first `most` characters and how many there are in all."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def counted(number: int, noun: str) -> str:
    """Such as "1 layer" or "2 layers"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
