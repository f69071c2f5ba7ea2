"""One measurement: a closed loop of callers, the processors' time meanwhile, and a profile of the gateway."""

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.load.system import Service
from benchmarks.scale.load import Ask, Questions, closed_loop
from benchmarks.scale.profile import shares_of
from benchmarks.scale.system import Machine, ProcessorTimes

_FEW_CALLERS = 12


@dataclass(frozen=True)
class Effort:
    """How long is measured, and how much."""

    sizes: tuple[int, ...]  # encoders or replicas, ascending from 1
    shares: tuple[float, ...]  # device times, as shares of the first, which is 1
    windows: int
    window_seconds: float  # three times as long for a single device, which answers rarely
    warm_seconds: float  # before the first window
    profile_seconds: float  # after the last window


@dataclass(frozen=True)
class Setup:
    """What is measured. Sequences of services are those that take part."""

    experiment: str
    encoders: Sequence[Service] = ()
    gateways: Sequence[Service] = ()
    replicas: int = 0  # of all gateways together
    device_seconds: float = 0.0  # of one device for a request
    ratio: float = 0.1  # of the vision tokens
    new_tokens: int = 1
    upload_bytes: int = 0  # of a request's vision tokens
    profiled: bool = False  # whether the gateway is


@dataclass(frozen=True)
class Point:
    """What was measured."""

    experiment: str
    encoders: int
    gateways: int
    replicas: int
    device_seconds: float
    ratio: float
    new_tokens: int
    upload_bytes: int
    callers: int
    rates: list[float]  # requests/s, by window
    first_seconds: list[float]  # p50 and p99 of the time to the first token; empty without an answer
    processor_seconds: dict[str, float]  # of a request, by kind of process
    busy_cores: dict[str, float]  # by kind of process
    profile: dict[str, float] | None  # share of the gateway's samples, by what runs

    @property
    def rate(self) -> float:
        """Requests/s, mean of the windows."""
        return statistics.mean(self.rates)

    @property
    def devices(self) -> int:
        """Of the half that is scaled."""
        return self.replicas or self.encoders

    @property
    def expected(self) -> float | None:
        """Requests/s if the devices were the only limit; None if they take no time."""
        return self.devices / self.device_seconds if self.device_seconds else None

    @property
    def megabytes(self) -> float:
        """Of vision tokens, a second."""
        return self.rate * self.upload_bytes / 1e6


async def measure(
    machine: Machine, effort: Effort, setup: Setup, ask: Callable[[Questions], Ask], *, callers: int
) -> Point:
    """Measure one setup with a number of callers."""
    encoders = [service.address for service in setup.encoders]
    llms = [service.address for service in setup.gateways]
    window_seconds = effort.window_seconds * (3 if setup.device_seconds and callers <= _FEW_CALLERS else 1)
    seconds = effort.windows * window_seconds
    tail = effort.profile_seconds if setup.profiled else 0.0
    async with Questions(encoders=encoders, llms=llms, new_tokens=setup.new_tokens) as questions:
        counted, spent, profile = await asyncio.gather(
            closed_loop(
                ask(questions),
                callers=callers,
                warm_seconds=effort.warm_seconds,
                window_seconds=window_seconds,
                windows=effort.windows,
                tail_seconds=tail,
            ),
            _processors(machine, setup, effort.warm_seconds, seconds),
            _profile(setup, effort.warm_seconds + seconds, tail),
        )
    requests = max(sum(counted.ends), 1)
    first = (
        [float(value) for value in np.percentile(counted.first_seconds, [50, 99])] if any(counted.first_seconds) else []
    )
    return Point(
        setup.experiment,
        len(encoders),
        len(llms),
        setup.replicas,
        setup.device_seconds,
        setup.ratio,
        setup.new_tokens,
        setup.upload_bytes,
        callers,
        counted.rates,
        first,
        {kind: value / requests for kind, value in spent.items()},
        {kind: value / seconds for kind, value in spent.items()},
        profile,
    )


async def _processors(machine: Machine, setup: Setup, after: float, seconds: float) -> Mapping[str, float]:
    """Processor seconds by kind of process in the windows."""
    times = await asyncio.to_thread(ProcessorTimes, machine, setup.gateways, setup.encoders)
    await asyncio.sleep(after)
    times.start()
    await asyncio.sleep(seconds)
    return times.since()


async def _profile(setup: Setup, after: float, seconds: float) -> dict[str, float] | None:
    """The first gateway's profile after the windows, since it slows the gateway."""
    if not seconds:
        return None
    await asyncio.sleep(after)
    process = setup.gateways[0].process
    assert process is not None, "it serves"
    return await asyncio.to_thread(shares_of, process.pid, seconds)
