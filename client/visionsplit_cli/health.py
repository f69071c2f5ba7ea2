"""`visionsplit health`: whether a service takes calls, for health checks of containers and scripts.

The exit code is 0 if it does, and 1 while it starts or drains or if it cannot be reached.
"""

import argparse
from dataclasses import replace

from visionsplit.command_line.parser import add_option, positive
from visionsplit_client import Client, HealthStatus

from visionsplit_cli import options, output

_TIMEOUT_SECONDS = 5.0


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("health", help="say whether a service takes calls", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT", help="The address of an encoder service or an LLM service.")
    add_option(parser, "--timeout", positive, "The time to wait for an answer.", _TIMEOUT_SECONDS)
    options.add_security(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    try:
        # The health check needs no token.
        client = Client(args.address, security=replace(options.security_from(args), token=None))
    except ValueError as error:
        options.usage_error(args, str(error))
    with client:
        health = client.health_details(timeout=args.timeout)[args.address]
    print(health.status.value)
    if health.reason:
        output.warn(health.reason)
    return 0 if health.status is HealthStatus.SERVING else 1
