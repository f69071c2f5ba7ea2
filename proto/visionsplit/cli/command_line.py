"""What all command lines share: a parser that fails with one line, and the types of their options."""

import argparse
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from visionsplit.network.addresses import check_address, split_host_port

ValueT = TypeVar("ValueT")

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,4})?")


class OneLineParser(argparse.ArgumentParser):
    """One line for a wrong usage, where argparse's own lists every option first. Options are not abbreviated: an option
    of one command would be taken for a longer one of another."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def at_least(least: int, *, most: int | None = None) -> Callable[[str], int]:
    """Reads a whole number from `least` on, up to `most` where that is given."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        whole = digits.isascii() and digits.isdecimal()
        if not whole or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return int(text)

    return read


def share(text: str) -> float:
    """Reads a number in (0, 1], such as the share of the vision tokens to keep."""
    value = number(text)
    if not 0 < value <= 1:  # false for NaN too
        hint = f"; for {text} percent write {value / 100:g}" if 2 <= value <= 100 else ""
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1{hint}")
    return value


def shares(text: str) -> tuple[float, ...]:
    """Reads numbers in (0, 1] with commas between them."""
    return tuple(share(part.strip()) for part in text.split(","))


def not_negative(text: str) -> float:
    """Reads a finite number of 0 or more, such as a duration in seconds."""
    value = number(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def positive(text: str) -> float:
    """Reads a finite number above 0, such as a duration in seconds."""
    value = number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def number(text: str) -> float:
    """Reads any number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def host_port(text: str) -> str:
    """Reads an address to listen on."""
    try:
        split_host_port(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def addresses(text: str) -> str:
    """Reads addresses to connect to, with commas between them."""
    for address in text.split(","):
        try:
            check_address(address)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def device(text: str) -> str:
    """Reads the name of a device that PyTorch computes on. Whether this machine has it is not checked."""
    if not _DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of cpu, cuda and cuda:N")
    return text


def unless_empty(read: Callable[[str], ValueT]) -> Callable[[str], ValueT | None]:
    """Reads an empty text as an option that is not given: a deployment may pass on a variable that is not set."""

    def read_or_none(text: str) -> ValueT | None:
        return read(text) if text else None

    return read_or_none
