"""`python -m encoder_service`: reads the command line and serves until told to stop."""

import sys
from collections.abc import Sequence

from encoder_service.command_line import parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the process's exit status."""
    options = parse(arguments)
    # PyTorch is imported only once the command line is known to be right.
    from encoder_service.serving import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
