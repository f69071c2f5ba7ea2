"""`visionsplit plan [INPUT...]`: how many encoders a language model needs, how fast both are, and at what cost.

A short run measures each half alone at each retention ratio: services that it starts on this machine, one after the
other (--model), or running services (--encoder and --llm). From these two rates follow the encoders for each language
model, and for a million images the hours of devices, or their cost.

Exit codes: 0 done; 1 it failed, with one line on stderr; 2 wrong usage; 130 stopped with Ctrl-C, 143 with SIGTERM.
"""

import argparse
import os
import sys
from collections.abc import Callable

from visionsplit.model.names import is_missing_folder
from visionsplit_client import Compression, Sampling

from visionsplit_cli import options as shared
from visionsplit_cli.checkout import shipped_model
from visionsplit_cli.plan import options, report
from visionsplit_cli.plan.groups import Prices
from visionsplit_cli.plan.images import open_images
from visionsplit_cli.plan.measuring import Effort
from visionsplit_cli.plan.services import OwnServices, RunningServices
from visionsplit_cli.plan.sweep import Services, SweepRequest, sweep
from visionsplit_cli.report import print_json
from visionsplit_cli.signals import ended_by_sigterm

_TERMINATED = 143


def add_parser(commands: shared.Subparsers) -> None:
    parser = commands.add_parser(
        "plan",
        help="measure how many encoders a language model needs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the plan."""
    prices, request = _prices(args), _request(args)
    services = _services(args)
    load = os.getloadavg()[0]  # before our own work
    with ended_by_sigterm(SystemExit(_TERMINATED)):
        images = open_images(args.inputs)
        found = sweep(services, request, images, prices or Prices(), _note(args))
    own = isinstance(services, OwnServices)
    setting = report.Setting(
        model=found.encoder.model,
        encoder_device=found.encoder.device,
        llm_device=found.llm.device,
        machine=report.machine() if own else None,
        images=images.origin,
        prompt=args.prompt,
        max_new_tokens=args.max_new_tokens,
        seconds=args.seconds,
        compression=request.compression,
        load=load if own else None,
    )
    if args.json:
        print_json(report.document(setting, found.plans, prices))
    else:
        print(report.text(setting, found.plans, prices))
    return 0


def _services(args: argparse.Namespace) -> Services:
    """Ends with a wrong usage where the options do not go together."""
    if (args.encoder is None) != (args.llm is None):
        shared.usage_error(args, "--encoder and --llm go together: both halves are measured")
    if args.encoder is not None:
        if args.model is not None or args.encoder_args or args.llm_args:
            shared.usage_error(args, "--model, --encoder-args and --llm-args are for services that this command starts")
        shared.client_from(args).close()  # a wrong address is a wrong usage
        return RunningServices(tuple(args.encoder), args.llm, shared.security_from(args))
    model = args.model or shipped_model()
    if model is None:
        shared.usage_error(args, "name a checkpoint with --model, or running services with --encoder and --llm")
    if is_missing_folder(model):
        shared.usage_error(args, f"there is no folder {model}")
    return OwnServices(model, args.start_timeout, _note(args), tuple(args.encoder_args), tuple(args.llm_args))


def _request(args: argparse.Namespace) -> SweepRequest:
    return SweepRequest(
        ratios=args.ratios,
        compression=Compression(**shared.asked_compression(args)),
        prompt=args.prompt,
        sampling=Sampling(max_new_tokens=args.max_new_tokens),
        effort=Effort(args.seconds, args.in_flight),
        timeout=args.timeout,
    )


def _prices(args: argparse.Namespace) -> Prices | None:
    """None where none is given; one price is for both."""
    if args.price_encoder is None and args.price_llm is None:
        return None
    encoder = args.price_llm if args.price_encoder is None else args.price_encoder
    return Prices(encoder, encoder if args.price_llm is None else args.price_llm)


def _note(args: argparse.Namespace) -> Callable[[str], None]:
    def note(text: str) -> None:
        if not args.quiet:
            print(text, file=sys.stderr, flush=True)

    return note
