"""Kills the system's parts one after the other while patient callers go on asking."""

import asyncio
import signal
import time
from collections.abc import Callable

from benchmarks.load.system import Service, System
from benchmarks.load.traffic import Outcomes, Traffic

_TIMEOUT_SECONDS = 120.0
_CALLERS = 4


def _kill(service: Service) -> None:
    service.stop(signal.SIGKILL)
    service.start()


def _kill_replica(system: System) -> None:
    for process in system.llm.replicas()[:1]:
        process.kill()


def faults(system: System) -> dict[str, Callable[[], None]]:
    """What is done to the system, by name."""
    named: dict[str, Callable[[], None]] = {"a replica is killed": lambda: _kill_replica(system)}
    for number, encoder in enumerate(system.encoders):
        named[f"encoder {number} is killed and started"] = lambda encoder=encoder: _kill(encoder)  # type: ignore[misc]
    named["the gateway is killed and started"] = lambda: _kill(system.llm)
    return named


async def run_chaos(system: System, *, seconds: float) -> bool:
    """Each fault once, in equal parts of the time. Whether every request got exactly one answer or status.

    Printed with each fault: the seconds from it until the next answer, and the failures that callers saw who had
    retried until they could not: text had begun to arrive, or the time was up.
    """
    async with Traffic([one.address for one in system.encoders], timeout=_TIMEOUT_SECONDS, patient=True) as traffic:
        outcomes = Outcomes()
        stop = asyncio.Event()

        async def call() -> None:
            while not stop.is_set():
                await traffic.ask(outcomes)

        callers = [asyncio.create_task(call()) for _ in range(_CALLERS)]
        named = faults(system)
        pause = seconds / (len(named) + 1)
        for name, fault in named.items():
            await asyncio.sleep(pause)
            failed, moment = len(outcomes.failed_at), time.monotonic()
            await asyncio.to_thread(fault)
            for service in system.services:
                await asyncio.to_thread(service.wait_until_serving)
            ready = time.monotonic()
            while not (later := [at for at in outcomes.answered_at if at > moment]) or later[-1] < ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            gap = max(b - a for a, b in zip([moment, *later], later, strict=False))
            print(
                f"{name}: serving again after {ready - moment:.1f} s, longest time without an answer {gap:.1f} s, "
                f"{len(outcomes.failed_at) - failed} calls failed",
                flush=True,
            )
        await asyncio.sleep(pause)
        stop.set()
        await asyncio.gather(*callers)
    print(f"{outcomes.sent} requests: {dict(outcomes.ends)}; lost {outcomes.lost}")
    return not outcomes.lost and set(outcomes.ends) <= {"answer", "UnavailableError"}
