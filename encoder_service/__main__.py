"""`python -m encoder_service`: reads the settings and serves until a signal stops it."""

import sys
from collections.abc import Sequence

from encoder_service.config import PROGRAM


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `visionsplit-encoder`; returns the process's exit status."""
    config = PROGRAM.read(arguments)
    # PyTorch is imported only once the settings are known to be right.
    from visionsplit.server.running import run

    from encoder_service.server import EncoderServer

    return run("encoder", config, lambda: EncoderServer(config))


if __name__ == "__main__":
    sys.exit(main())
