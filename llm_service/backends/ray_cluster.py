"""Connects this process to Ray, and reads Ray's errors."""

from typing import Any

import ray
from visionsplit.errors import UnavailableError


def connect(address: str, **options: Any) -> None:  # noqa: ANN401 - the types of ray.init's options
    """Start a cluster if the address is "local", else join the cluster at the address.

    Args:
        options: further arguments of `ray.init`.

    Raises:
        UnavailableError: Ray could not start or join the cluster.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False, **options)
    except Exception as error:  # Ray raises no specific class if a cluster cannot be started or joined
        where = "start a cluster here" if address == "local" else f"join {address}"
        raise UnavailableError(f"Ray could not {where}: {error}") from error


def last_line(error: Exception) -> str:
    """The reason in one of Ray's errors, which end with it after lines about processes and tracebacks."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
