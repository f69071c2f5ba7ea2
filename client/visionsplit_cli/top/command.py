"""`visionsplit top`: what both services do right now, from their pages of metrics."""

import argparse
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from visionsplit.command_line.parser import add_option, host_port, positive
from visionsplit.errors import UnavailableError

from visionsplit_cli import options, report
from visionsplit_cli.top.samples import Samples, read_samples
from visionsplit_cli.top.screen import screen

_CLEAR = "\x1b[H\x1b[J"


@dataclass(frozen=True)
class Moment:
    """One look at both services."""

    when: float  # seconds of time.monotonic
    services: Mapping[str, Samples | None]  # None: it does not answer
    failures: Mapping[str, str]  # and why


def add_parser(commands: options.Subparsers) -> None:
    parser = commands.add_parser("top", help="watch what the services do", description=__doc__)
    add = partial(add_option, parser)
    for service, default in options.METRICS.items():
        add(f"--{service}-metrics", host_port, f"The address at which the {service} service serves metrics.", default)
    add("--interval", positive, "The time between two looks.", 2.0)
    add("--window", positive, "The time over which rates are taken.", 30.0)
    parser.add_argument("--once", action="store_true", help="Look once, over all the time since the services started.")
    options.add_json(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """0; 1 where a service does not answer the first time."""
    first = _look(args)
    if first.failures:
        raise UnavailableError("; ".join(dict.fromkeys(first.failures.values())))
    if args.once:
        _show(args, {name: _since_start(samples) for name, samples in first.services.items() if samples}, {})
        return 0
    seen = deque([first])
    while True:
        time.sleep(args.interval)
        now = _look(args)
        seen.append(now)
        while len(seen) > 2 and now.when - seen[0].when > args.window:
            seen.popleft()
        _show(args, _over(seen), now.failures)


def _look(args: argparse.Namespace) -> Moment:
    services: dict[str, Samples | None] = {}
    failures: dict[str, str] = {}
    for service in options.METRICS:
        try:
            services[service] = read_samples(getattr(args, f"{service}_metrics"), service)
        except UnavailableError as error:
            services[service], failures[service] = None, str(error)
    return Moment(time.monotonic(), services, failures)


def _over(seen: "deque[Moment]") -> dict[str, dict[str, object]]:
    """Each service that answers now, since its first answer in the window."""
    now = seen[-1]
    views: dict[str, dict[str, object]] = {}
    for service, samples in now.services.items():
        earlier = next(((one.when, one.services[service]) for one in seen if one.services[service]), None)
        if samples is not None and earlier is not None and earlier[1] is not None:
            views[service] = _view(samples.since(earlier[1]), now.when - earlier[0])
    return views


def _since_start(samples: Samples) -> dict[str, object]:
    return _view(samples, time.time() - samples.total("start_time_seconds"))


def _view(samples: Samples, seconds: float) -> dict[str, object]:
    """The numbers of one service over a period."""
    codes = samples.by("requests_total", "code")
    before, after = samples.total("vision_tokens_before_total"), samples.total("vision_tokens_after_total")
    lookups = samples.total("cache_lookups_total")
    hits = samples.total("cache_lookups_total", result="hit")

    def rate(name: str) -> float:
        return samples.total(name) / seconds if seconds > 0 else 0.0

    def quantiles(name: str) -> dict[str, float | None]:
        return {"p50": samples.quantile(name, 0.5), "p99": samples.quantile(name, 0.99)}

    view: dict[str, object] = {
        "seconds": seconds,
        "requests": sum(codes.values()),
        "requests_per_second": rate("requests_total"),
        "requests_by_code": codes,
        "errors": sum(count for code, count in codes.items() if code != "OK"),
        "in_flight": samples.total("requests_in_flight"),
        "images_per_second": rate("images_total"),
        "tokens_before": before,
        "tokens_after": after,
        "saving": 1 - after / before if before else None,
        "wire_bytes_per_second": rate("wire_bytes_total"),
        "queue_seconds": quantiles("queue_seconds"),
        "cache_lookups": lookups,
        "cache_hit_ratio": hits / lookups if lookups else None,
    }
    if samples.total("replicas") or ("replicas", frozenset()) in samples.values:
        view |= {
            "generated_tokens_per_second": rate("generated_tokens_total"),
            "time_to_first_token_seconds": quantiles("time_to_first_token_seconds"),
            "inter_token_seconds": quantiles("inter_token_seconds"),
            "replicas": samples.total("replicas"),
            "kv_used_ratio": samples.largest("kv_used_ratio"),  # of the fullest replica
        }
    else:
        view |= {
            "queued_tiles": samples.total("queued_tiles"),
            "tiles_per_pass": _mean(samples, "batch_tiles"),
            "encode_seconds": quantiles("encode_seconds"),
            "first_chunk_seconds": quantiles("first_chunk_seconds"),
        }
    return view


def _mean(samples: Samples, name: str) -> float | None:
    count = samples.total(f"{name}_count")
    return samples.total(f"{name}_sum") / count if count else None


def _show(args: argparse.Namespace, views: dict[str, dict[str, object]], failures: Mapping[str, str]) -> None:
    if args.json:
        report.print_json({**views, **({"failures": failures} if failures else {})})
        return
    clear = _CLEAR if sys.stdout.isatty() and not args.once else ""
    print(clear + screen(views, failures), flush=True)
