"""Random patterns: when calls arrive, what each requests, and how quickly the service works."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

CALLS = 250  # of a pattern, about


@dataclass(frozen=True)
class Call:
    """One call of a pattern."""

    at: float  # seconds from the start
    caller: str
    work: float  # seconds of the service's time; for a batch device, tiles
    deadline: float | None  # seconds from `at`
    upload: float = 0.0  # seconds between the first message and the last
    reading: float = 0.0  # seconds that the answer takes once it has begun


@dataclass(frozen=True)
class Pattern:
    """A service and what it gets to do."""

    seed: int
    device: bool  # a device that encodes batches of tiles; else a service that serves several calls in parallel
    at_once: int  # tiles of a batch, or calls in parallel
    seconds: float  # that a batch or a call takes on average
    speed_change: float  # factor on the time that everything takes, from half of the pattern on
    calls: tuple[Call, ...]

    @property
    def length(self) -> float:
        """Seconds until the last call comes."""
        return self.calls[-1].at

    def slowness(self, now: float) -> float:
        """The factor on the service's time at a moment."""
        return self.speed_change if now > self.length / 2 else 1.0


def make(seed: int) -> Pattern:
    """The pattern of a seed."""
    rng = random.Random(seed)
    device = rng.random() < 0.5
    at_once = rng.choice([1, 2, 4, 8, 16, 32])
    seconds = math.exp(rng.uniform(math.log(0.02), math.log(10.0)))
    change = rng.choice([1.0, 1.0, 1.0, 0.4, 2.5])
    tiles = rng.choice([1, 5, 10]) if device else 1
    capacity = at_once / seconds / tiles  # calls a second
    works = _works(rng, tiles, seconds, device=device)
    callers = _callers(rng)
    deadlines = [rng.choice([5.0, 10.0, 20.0, 30.0, 60.0, 120.0]) for _ in range(rng.randint(1, 3))]
    patient, slow = rng.choice([0.0, 0.0, 0.2]), rng.choice([0.0, 0.1, 0.5])
    calls = []
    for at in _arrivals(rng, capacity):
        stands_still = rng.random() < slow
        calls.append(
            Call(
                at,
                next(callers),
                next(works),
                None if rng.random() < patient else rng.choice(deadlines),
                upload=rng.choice([0.0, 300.0]) if stands_still else 0.0,
                reading=rng.uniform(0.0, 600.0) if stands_still else seconds,
            )
        )
    return Pattern(seed, device, at_once, seconds, change, tuple(calls))


def _arrivals(rng: random.Random, capacity: float) -> list[float]:
    """Times of arrival at loads from nearly idle to three times the capacity."""
    load = rng.uniform(0.05, 3.0)
    shape = rng.choice(["steady", "bursts", "ramp", "on and off"])
    if shape == "bursts":
        size = rng.randint(2, 60)
        pause = size / (load * capacity)
        return [number // size * pause + rng.uniform(0.0, 0.01) * pause for number in range(CALLS)]
    at, times = 0.0, []
    period = CALLS / (load * capacity) / rng.randint(2, 6)
    for number in range(CALLS):
        rate = load * capacity
        if shape == "ramp":
            rate *= 0.1 + 1.9 * number / CALLS
        at += rng.expovariate(rate)
        if shape == "on and off" and at % (2 * period) > period:
            at += 2 * period - at % (2 * period)
        times.append(at)
    return times


def _works(rng: random.Random, tiles: int, seconds: float, *, device: bool) -> Iterator[float]:
    shape = rng.choice(["equal", "exponential", "short and long"])
    while True:
        if device:
            yield float(rng.randint(1, 2 * tiles - 1) if shape != "equal" else tiles)
        elif shape == "equal":
            yield seconds
        elif shape == "exponential":
            yield rng.expovariate(1 / seconds)
        else:
            yield 0.5 * seconds if rng.random() < 0.9 else 5.5 * seconds


def _callers(rng: random.Random) -> Iterator[str]:
    names = [f"caller {number}" for number in range(rng.choice([1, 1, 2, 5, 20]))]
    weights = [rng.choice([1, 1, 10]) for _ in names]
    while True:
        yield rng.choices(names, weights)[0]
