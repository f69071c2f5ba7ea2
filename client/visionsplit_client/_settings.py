"""Value objects that configure a client: how long, how often, how much."""

import math
from dataclasses import dataclass

from visionsplit.network.transport import MAX_IMAGE_REQUEST_BYTES


@dataclass(frozen=True)
class Timeouts:
    """Seconds that a client waits. None waits without a limit."""

    call: float | None = 120.0  # a whole call, its retries included; a call's own `timeout` replaces it
    fetch: float | None = 30.0  # an image behind an http(s) URL

    def __post_init__(self) -> None:
        for name in ("call", "fetch"):
            check_seconds(name, getattr(self, name))


@dataclass(frozen=True)
class Retries:
    """How a call that found its service unavailable is repeated.

    As a rule only such calls are repeated, and only while no text and no token of the answer has arrived. The n-th
    repetition waits initial_delay * 2**(n-1) seconds, at most max_delay, of which a random half may be left out:
    clients which lost one service together do not come back together. With several addresses, one that has not been
    tried yet is tried at once.

    With `overloaded`, calls that were refused because the service is full are repeated as well, after the time that it
    names and up to a half more; those refused for good, such as a request larger than any room, never are.
    """

    attempts: int = 5  # tries in all; with more addresses than this, each address once
    initial_delay: float = 0.2  # seconds
    max_delay: float = 2.0  # seconds
    overloaded: bool = False  # whether to wait for a service that is full

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; at least 1 is needed")
        check_seconds("initial_delay", self.initial_delay)
        check_seconds("max_delay", self.max_delay)


@dataclass(frozen=True)
class Limits:
    """What a client refuses to read.

    An application that passes on texts which strangers wrote needs `allow_files=False` and
    `allow_private_addresses=False`. Otherwise a text may name a file of the application's machine, or a host of its
    network.
    """

    max_image_bytes: int = MAX_IMAGE_REQUEST_BYTES  # of one image's file; no service takes more
    allow_files: bool = True  # whether a str may be a path or a file: URL; pathlib.Path and open files always may
    allow_private_addresses: bool = True  # whether an image's URL may lead to loopback, private or link-local addresses

    def __post_init__(self) -> None:
        if self.max_image_bytes < 1:
            raise ValueError(f"max_image_bytes is {self.max_image_bytes}; at least 1 is needed")


class Unset:
    """Type of `UNSET`: an argument that was not given, because None means something else."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


def check_seconds(name: str, seconds: float | None) -> None:
    """Raise ValueError unless this is None or a positive, finite number."""
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} is {seconds} seconds; a positive number or None is needed")


DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_RETRIES = Retries()
DEFAULT_LIMITS = Limits()
