"""Kills the system's parts one after another while requests keep coming."""

import asyncio
import itertools
import signal
import time
from collections.abc import Callable

from benchmarks.load.nodes import RayNodes
from benchmarks.load.system import Service, System
from benchmarks.load.traffic import Outcomes, Traffic

_TIMEOUT_SECONDS = 120.0
_CALLERS = 16  # callers that measure the capacity
_MEASURE_SECONDS = 10.0
_LOAD = 0.5  # of the capacity: the remaining parts can serve it while one is missing
_CALM_SECONDS = 8.0  # between a part's return and the next fault


def _kill(service: Service) -> None:
    service.stop(signal.SIGKILL)
    service.start()


def faults(system: System, nodes: RayNodes) -> dict[str, Callable[[], None]]:
    """The faults, by name."""
    named: dict[str, Callable[[], None]] = {"a replica is killed": nodes.kill_replica}
    for number, encoder in enumerate(system.encoders):
        named[f"encoder {number} is killed and started"] = lambda encoder=encoder: _kill(encoder)  # type: ignore[misc]
    named["a Ray worker node is killed, another comes"] = nodes.replace_node
    named["the gateway is killed and started"] = lambda: _kill(system.llm)
    return named


async def run_chaos(system: System, nodes: RayNodes, *, seconds: float) -> bool:
    """Inject fault after fault while time remains; return whether every request got exactly one answer or status.

    Requests come when they come, whatever has become of the others. Their callers are patient: they repeat what a full
    or lost service refused until the timeout. Printed with each fault: the seconds from it until all parts serve again,
    the longest time without an answer, and the failures that such callers still saw, since text had begun to arrive.
    """
    addresses = [one.address for one in system.encoders]
    async with Traffic(addresses, timeout=_TIMEOUT_SECONDS) as traffic:
        capacity = (await traffic.closed_loop(_CALLERS, _MEASURE_SECONDS)).goodput
        print(f"capacity {capacity:.2f} answers/s; {_LOAD * capacity:.2f} requests/s come", flush=True)
    async with Traffic(addresses, seed=1, timeout=_TIMEOUT_SECONDS, patient=True) as traffic:
        outcomes = Outcomes()
        arrivals = asyncio.create_task(traffic.open_loop(_LOAD * capacity, seconds, outcomes))
        end = time.monotonic() + seconds
        for name, fault in itertools.cycle(faults(system, nodes).items()):
            await asyncio.sleep(_CALM_SECONDS)
            if time.monotonic() > end:
                break
            await _strike(system, name, fault, outcomes)
        await arrivals
    waits = sorted(outcomes.total_seconds)
    print(
        f"{outcomes.sent} requests: {dict(outcomes.ends)}; lost {outcomes.lost}; "
        f"whole answers p50 {waits[len(waits) // 2]:.2f} s, slowest {waits[-1]:.2f} s"
    )
    return not outcomes.lost and set(outcomes.ends) <= {"answer", "UnavailableError", "UnreachableError"}


async def _strike(system: System, name: str, fault: Callable[[], None], outcomes: Outcomes) -> None:
    failed, moment = len(outcomes.failed_at), time.monotonic()
    await asyncio.to_thread(fault)
    for service in system.services:
        await asyncio.to_thread(service.wait_until_serving)
    ready = time.monotonic()
    while not (later := [at for at in outcomes.answered_at if at > moment]) or later[-1] < ready:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    gap = max(b - a for a, b in zip([moment, *later], later, strict=False))
    print(
        f"{name}: all parts serve after {ready - moment:.1f} s, longest time without an answer {gap:.1f} s, "
        f"{len(outcomes.failed_at) - failed} calls failed",
        flush=True,
    )
