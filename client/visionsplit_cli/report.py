"""Prints results: JSON for programs, sizes and tables for people."""

import dataclasses
import enum
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from visionsplit.visible import counted, visible
from visionsplit_client import ImageSummary

from visionsplit_cli import output
from visionsplit_cli.options import FIELD_OPTIONS

_CACHED = {"memory": ", from the encoder's memory", "disk": ", from the encoder's disk"}


def message(error: Exception, images: Sequence[str] = ()) -> str:
    """One line on a failure, in the user's terms: images by the names that the user gave, fields as options."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = _with_options(error)
    for index, image in enumerate(images):
        about = f"image {index}: "
        if text.startswith(about):
            return f"{image}: {text.removeprefix(about)}"
    return text


def _with_options(error: Exception) -> str:
    """The error's text, where the services' names of fields are replaced by those of the options that set them."""
    options = next((names for kind, names in FIELD_OPTIONS.items() if isinstance(error, kind)), {})
    if not options:
        return str(error)
    # A name in quotes is the caller's own word.
    fields = re.compile(rf"(?<![\w'-])({'|'.join(options)})(?![\w'-])")
    return fields.sub(lambda found: options[found[1]], str(error))


def failure(error: Exception, text: str) -> dict[str, str]:
    """The form of a failure in JSON."""
    return {"class": type(error).__name__, "message": text}


def print_json(document: Any) -> None:  # noqa: ANN401 - whatever has a JSON form
    text = json.dumps(document, indent=2, default=_to_json, ensure_ascii=not output.takes_unicode())
    print(visible(text), flush=True)


def size(num_bytes: float) -> str:
    """Bytes in the largest decimal unit that keeps at least one digit before the point."""
    for unit in ("B", "kB", "MB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.2f} GB"


def percent_less(after: float, before: float) -> str:
    return f"{100 * (1 - after / before):.0f}% less" if before else "-"


def cost(image: ImageSummary) -> str:
    """One line on what an image cost."""
    cached = _CACHED.get(image.cache, "")
    if image.tokens_after == image.tokens_before:
        return f"{image.tokens_before} vision tokens, {size(image.wire_bytes)} on the wire{cached}"
    return (
        f"{image.tokens_before} -> {image.tokens_after} vision tokens, "
        f"{size(image.wire_bytes_before)} -> {size(image.wire_bytes)} on the wire{cached}"
    )


def layers(tokens: Sequence[int]) -> str:
    """One line on the prompt tokens that each layer of the language model holds; equal neighbours go together."""
    runs = [(count, len(list(run))) for count, run in itertools.groupby(tokens)]
    return "prompt tokens by layer: " + ", ".join(f"{count} in {counted(length, 'layer')}" for count, length in runs)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, totals: Sequence[str] | None = None) -> str:
    """Columns as wide as their widest cell; the first to the left, numbers to the right."""
    everything = [header, *rows, *([totals] if totals else [])]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        return "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([line(header), rule, *map(line, rows), *([rule, line(totals)] if totals else [])])


def _to_json(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no JSON form")
