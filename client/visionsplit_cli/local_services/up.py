"""`visionsplit up`: both services on this machine, until Ctrl-C."""

import argparse
import secrets
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from visionsplit.command_line.parser import (
    Kind,
    add_option,
    any_text,
    device,
    host_port,
    one_of,
    path,
    pool_size,
    positive,
    word,
)
from visionsplit.command_line.security_options import add_server_options, server_security_from
from visionsplit.model.names import is_missing_folder
from visionsplit.network.addresses import split_host_port
from visionsplit.options.data_types import DTYPE_NAMES
from visionsplit.security.client import ClientSecurity
from visionsplit.security.tls import ClientTls
from visionsplit_client import DEFAULT_ENCODER

from visionsplit_cli import checkout, options, output
from visionsplit_cli.local_services.ports import free_addresses
from visionsplit_cli.local_services.processes import Service
from visionsplit_cli.local_services.starting import check_alive, wait_until_healthy

_OWN_OPTIONS = frozenset({"--listen", "--llm", "--model"})
_WATCH_SECONDS = 0.2
# A service that has drained still has to leave; Ray takes some seconds for that.
_EXIT_SECONDS = 15.0


def _read_options(text: str) -> list[str]:
    """Reads options to pass on. Those that this command sets itself would leave it waiting at another address."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be read as options: {error}") from None
    for one in words:
        if (option := one.partition("=")[0]) in _OWN_OPTIONS:
            raise ValueError(f"{option} is set by the options of `visionsplit up` itself")
    return words


_further_options = Kind(_read_options, "options", "OPTIONS")


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("up", help="start both services on this machine", description=__doc__)
    shipped = checkout.shipped_model()
    add = partial(add_option, parser)
    add(
        "--model",
        replace(word, show=lambda _: "the one in this checkout"),
        "The checkpoint, as a folder or a Hugging Face hub id.",
        shipped,
        required=shipped is None,
        metavar=None,
    )
    for service, default in (("encoder", DEFAULT_ENCODER), ("llm", options.DEFAULT_LLM)):
        text = f"The address on which the {service} service listens; port 0 takes a free one."
        add(f"--{service}", host_port, text, default)
    text = "Where the LLM service runs its replicas: in its own process, or on Ray."
    add("--backend", one_of(("local", "ray")), text, "local")
    add(
        "--replicas",
        pool_size,
        "The number of the LLM service's replicas; several, or a range such as 1-4 that follows the load, need "
        "--backend ray.",
        (1, 1),
    )
    add(
        "--encoders",
        pool_size,
        "The number of encoders as Ray actors, beside the replicas; a range such as 2-8 follows the load. They listen "
        "at --encoder and the ports behind it, and serve no metrics. Needs --backend ray.",
        absent="one encoder, in a separate process",
    )
    text = "The device of both services: cpu, cuda or cuda:N."
    add("--device", device, text, absent="a GPU, or the CPU where there is none")
    text = "The number format of the weights."
    add("--dtype", one_of(DTYPE_NAMES), text, absent="float32 on the CPU, the checkpoint's own on a GPU")
    for service in ("llm", "encoder"):
        text = f'Further options of visionsplit-{service}, as one word, such as --{service}-args="--max-images 4".'
        add(f"--{service}-args", _further_options, text, [])
    add("--grace", positive, "How long running calls may go on after Ctrl-C.", 10.0)
    text = "The time in which both services must become healthy; a download counts."
    add("--start-timeout", positive, text, 600.0)
    _add_security(parser)
    parser.add_argument(
        "--metrics",
        action="store_true",
        help=f"Serve metrics for visionsplit top, at {' and '.join(options.METRICS.values())}.",
    )
    parser.add_argument("--quiet", action="store_true", help="Print warnings only, and no hints.")
    parser.set_defaults(run=run, parser=parser)


def _add_security(parser: argparse.ArgumentParser) -> None:
    add_server_options(parser)
    add = partial(add_option, parser.add_argument_group("security between the services"))
    text = "The authorities that have signed --tls-cert."
    add("--tls-ca", replace(path, metavar="PEM"), text, absent="those that come with gRPC")
    add("--tls-server-name", any_text, "The name in --tls-cert.", absent="the hosts of both addresses", metavar="NAME")


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C or SIGTERM, which is how it is meant to end; 1 if a service does not start or ends on its own."""
    _check(args)
    security = _security(args)
    args.llm, *args.encoder_addresses = free_addresses([args.llm, *_encoder_addresses(args)])
    if not args.quiet:
        output.warn(f"starting the LLM service and the encoder service with {args.model} ...")
    with ExitStack() as files, _stop_signals() as stop:
        services = _services(args, files.enter_context(_encoder_token()) if args.token_file else None)
        try:
            for service in services if args.encoders is None else services[:1]:  # which runs the others on Ray
                service.start()
            pause = partial(stop.wait, _WATCH_SECONDS)
            if wait_until_healthy(services, timeout=args.start_timeout, pause=pause, security=security):
                _announce(args)
                while not pause():
                    check_alive(services)
        finally:
            stopped_once = stop.is_set()
            stop.clear()  # a second signal means: at once
            if stopped_once and not args.quiet:
                print("stopping", file=sys.stderr, flush=True)
            for service in reversed(services):
                service.stop(grace=args.grace + _EXIT_SECONDS, hurry=stop.is_set)
    return 0


def _check(args: argparse.Namespace) -> None:
    """End with a wrong usage what both services would fail of, each with its own words."""
    if args.encoder == args.llm and split_host_port(args.llm)[1] != 0:
        options.usage_error(args, f"both services cannot listen on {args.llm}")
    if args.backend == "local" and (args.encoders is not None or args.replicas != (1, 1)):
        options.usage_error(args, "--backend local has one encoder and one replica; more need --backend ray")
    if is_missing_folder(args.model):
        options.usage_error(args, f"there is no folder {args.model}")


def _encoder_addresses(args: argparse.Namespace) -> list[str]:
    """One address for each of the most encoders: at consecutive ports, of which the LLM service's is left out."""
    most = 1 if args.encoders is None else args.encoders[1]
    host, port = args.encoder.rpartition(":")[0], split_host_port(args.encoder)[1]
    addresses = [f"{host}:{port and port + offset}" for offset in range(most + 1)]
    return [address for address in addresses if port == 0 or address != args.llm][:most]


@contextmanager
def _encoder_token() -> Iterator[Path]:
    """A file with a new token, by which the LLM service knows the encoder and believes on whose behalf it calls.

    An application's token in its place would make all applications one caller. Only this user can read the file.
    """
    with tempfile.TemporaryDirectory(prefix="visionsplit-") as folder:
        path = Path(folder, "encoder.token")
        path.write_text(f"encoder {secrets.token_urlsafe(32)} relay\n")
        yield path


def _services(args: argparse.Namespace, encoder_token: Path | None) -> list[Service]:
    """
    Args:
        encoder_token: the file with the encoder's token for the LLM service; None where no tokens are used.
    """
    shared = ["--model", args.model, "--grace", f"{args.grace:g}"]
    shared += ["--log-level", "WARNING" if args.quiet else "INFO"]
    for option in ("device", "dtype"):
        if getattr(args, option) is not None:
            shared += [f"--{option}", getattr(args, option)]
    for option in ("tls-cert", "tls-key", "tls-client-ca"):
        shared += _passed_on(args, option)
    shared += [word for path in args.token_file or () for word in ("--token-file", str(path))]
    to_llm = [word for name in ("tls-ca", "tls-server-name") for word in _passed_on(args, name, prefix="llm-")]
    for option in ("tls-cert", "tls-key"):  # the encoder's certificate is that of both services
        to_llm += _passed_on(args, option, prefix="llm-")
    of_encoder = []
    if encoder_token is not None:
        to_llm += ["--llm-token-file", str(encoder_token)]
        of_encoder = ["--token-file", str(encoder_token)]
    metrics = {name: ["--metrics", at] if args.metrics else [] for name, at in options.METRICS.items()}
    llm = [*_replicas(args), *shared, *of_encoder, *metrics["llm"], *args.llm_args]
    encoder = ["--llm", args.llm, *shared, *to_llm]
    addresses = args.encoder_addresses
    if args.encoders is None:
        encoder += [*metrics["encoder"], *args.encoder_args]
        return [Service("llm_service", args.llm, llm), Service("encoder_service", addresses[0], encoder)]
    pool = ["--encoders", "-".join(map(str, args.encoders)), "--encoder-listen", ",".join(addresses)]
    pool += ["--encoder-args", shlex.join([*encoder, *args.encoder_args])]
    always = [Service("encoder_service", address, []) for address in addresses[: args.encoders[0]]]
    return [Service("visionsplit_ray", args.llm, [*llm, *pool]), *always]


def _replicas(args: argparse.Namespace) -> list[str]:
    least, most = args.replicas
    if least == most:
        return ["--backend", args.backend, "--replicas", str(least)]
    return ["--backend", args.backend, "--min-replicas", str(least), "--max-replicas", str(most)]


def _passed_on(args: argparse.Namespace, option: str, *, prefix: str = "") -> list[str]:
    value = getattr(args, option.replace("-", "_"))
    return [] if value is None else [f"--{prefix}{option}", str(value)]


def _security(args: argparse.Namespace) -> ClientSecurity:
    """Of our own health checks, which need no token.

    Raises:
        CredentialsError: options that do not make sense without another, or files that cannot be used.
    """
    if server_security_from(args).tls is None:
        return ClientSecurity()
    tls = ClientTls(args.tls_ca, args.tls_cert, args.tls_key, args.tls_server_name)
    tls.read()
    return ClientSecurity(tls)


def _announce(args: argparse.Namespace) -> None:
    print(f"LLM service: {args.llm}")
    for address in args.encoder_addresses:
        print(f"encoder service: {address}")
    if not args.quiet:
        first = args.encoder_addresses[0]
        option = "" if first == DEFAULT_ENCODER else f" --encoder {first}"
        print(f'ready; try: visionsplit ask{option} IMAGE "Describe the image."   (Ctrl-C stops both)')
    sys.stdout.flush()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
