"""`python -m benchmarks.load` measures the system under load; --chaos kills its parts meanwhile."""

import argparse
import asyncio
import sys
import time

import numpy as np

from benchmarks.load.chaos import run_chaos
from benchmarks.load.nodes import RayNodes
from benchmarks.load.system import System
from benchmarks.load.traffic import Outcomes, Traffic

FACTORS = (0.5, 1.0, 2.0)
_CALLERS = 16  # callers that measure the capacity
LEAST_GOODPUT = 0.9  # at twice the capacity's load, as a share of that at the capacity


def row(name: str, outcomes: Outcomes) -> str:
    """One line of the table; seconds."""
    parts = [f"{name:>8} {outcomes.sent:6d} sent {outcomes.answered:6d} answered {outcomes.goodput:7.2f}/s"]
    for label, values in (("first text", outcomes.first_seconds), ("total", outcomes.total_seconds)):
        if values:
            middle, worst = np.percentile(values, [50, 99])
            parts.append(f"{label} p50 {middle:.2f} p99 {worst:.2f}")
    others = ", ".join(f"{count} {end}" for end, count in outcomes.ends.items() if end != "answer")
    return "  ".join([*parts, f"lost {outcomes.lost}", others])


async def run_load(system: System, *, seconds: float, patience: float, factors: tuple[float, ...] = FACTORS) -> bool:
    """Apply load at multiples of the measured capacity; return whether every request ended and overload cost little."""
    addresses = [encoder.address for encoder in system.encoders]
    async with Traffic(addresses, timeout=10 * patience) as traffic:
        await traffic.closed_loop(_CALLERS, min(seconds, 5))  # warm up
        full = await traffic.closed_loop(_CALLERS, seconds)
        capacity = full.goodput
        print(row("capacity", full), flush=True)
    async with Traffic(addresses, seed=1, timeout=patience) as traffic:
        before = [service.memory_mib() for service in system.services]
        results: dict[float, Outcomes] = {}
        for factor in factors:
            busy = [service.cpu_seconds() for service in system.services]
            own = time.process_time()
            results[factor] = await traffic.open_loop(factor * capacity, seconds)
            print(row(f"{factor:g}x", results[factor]), flush=True)
            for service, was in zip(system.services, busy, strict=True):
                share = (service.cpu_seconds() - was) / results[factor].seconds
                print(f"         {service.module}: {service.memory_mib():.0f} MiB, {share:.0%} of a processor")
            print(f"         callers: {(time.process_time() - own) / results[factor].seconds:.0%} of a processor")
    for service, was in zip(system.services, before, strict=True):
        print(f"{service.module}: {was:.0f} MiB before, {service.memory_mib():.0f} MiB after")
    share = results[factors[-1]].goodput / results[factors[-2]].goodput
    print(f"goodput at {factors[-1]:g}x is {share:.0%} of that at {factors[-2]:g}x")
    return share >= LEAST_GOODPUT and not any(outcomes.lost for outcomes in results.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load")
    parser.add_argument("--model", default="models/visionsplit-mini", help="checkpoint")
    parser.add_argument("--seconds", type=float, help="of each load (60), or of the chaos (180)")
    parser.add_argument("--timeout", type=float, default=10.0, help="of a call under load, in seconds")
    parser.add_argument("--chaos", action="store_true", help="kill replicas, encoders and the gateway meanwhile")
    options = parser.parse_args()
    if options.chaos:
        with (
            RayNodes(workers=2) as nodes,
            System.of(options.model, encoders=2, replicas=2, ray_address=nodes.address) as system,
        ):
            good = asyncio.run(run_chaos(system, nodes, seconds=options.seconds or 180.0))
    else:
        with System.of(options.model, encoders=1) as system:
            good = asyncio.run(run_load(system, seconds=options.seconds or 60.0, patience=options.timeout))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
