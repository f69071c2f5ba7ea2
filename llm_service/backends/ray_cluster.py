"""Connecting this process to Ray."""

from typing import Any

import ray
from visionsplit.errors import UnavailableError


def connect(address: str, **options: Any) -> None:  # noqa: ANN401 - those of ray.init
    """Start a cluster, where the address is "local", or join one.

    Args:
        options: more options of `ray.init`.

    Raises:
        UnavailableError: Ray could not do it.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False, **options)
    except Exception as error:  # Ray has no class for a cluster that does not start or cannot be joined
        where = "start a cluster here" if address == "local" else f"join {address}"
        raise UnavailableError(f"Ray could not {where}: {error}") from error
