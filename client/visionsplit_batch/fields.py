"""The input's other columns on their way to the output."""

from collections.abc import Mapping, Sequence
from typing import Any

Carry = Sequence[str] | None  # names of the input's fields to keep; None keeps all of them


def carried(fields: Mapping[str, Any], carry: Carry) -> dict[str, Any]:
    """The fields to keep. One that is named and that the row lacks is null, so that all rows have the same.

    Args:
        fields: JSON values, as every source gives them.
    """
    names = list(fields) if carry is None else carry
    return {plain_text(name): _plain(fields.get(name)) for name in names}


def plain_text(text: str) -> str:
    r"""The text with lone surrogates, as of a file's name that is no UTF-8, written out like `\udcff`: files cannot
    hold them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a column holds
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, Mapping):
        return {plain_text(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
