"""`python -m llm_service`: reads the command line and serves until told to stop."""

import sys
from collections.abc import Sequence

from visionsplit.security.files import CredentialsError
from visionsplit.telemetry.logs import configure_logging

from llm_service.command_line import config_from, parse_options
from llm_service.options import PROGRAM


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `visionsplit-llm`; returns the process's exit status."""
    options = parse_options(arguments)
    configure_logging("llm", level=options.log_level, form=options.log_format, loggers=("llm_service", "visionsplit"))
    try:
        config = config_from(options)
    except (ValueError, CredentialsError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    # PyTorch is imported only once the command line is known to be right.
    from llm_service.serving import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
