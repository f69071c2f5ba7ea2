"""Runs the plan, and saves every part as soon as it is measured."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.load.traffic import Ask as Call
from benchmarks.load.traffic import arrivals, in_turns, on_arrival
from benchmarks.peers.contestants import Contestant, Settings, running
from benchmarks.peers.inputs import Request, Requests
from benchmarks.peers.plan import HEADLINE_CALLERS, PROPORTIONED, Condition, Load, Part, Plan, Turn
from benchmarks.peers.results import Result, Sample
from benchmarks.peers.watching import Watch
from training.dialogue.scoring import score

_WARM_UP = 4  # requests before each condition, at the same time; nothing of them is reported
Start = Callable[[str, Settings], AbstractAsyncContextManager[Contestant]]
_SEED = 0  # of the arrivals, so that every contestant gets the same


@dataclass
class Measurement:
    """One run of a plan."""

    plan: Plan
    settings: dict[str, Settings]  # by model
    requests: dict[str, Requests]  # by model
    folder: Path  # for the results
    start: Start = running
    base: float | None = field(default=None, init=False)  # images/s, of which rates are multiples

    async def run(self) -> None:
        """Measure everything.

        Raises:
            RuntimeError: a contestant did not start.
        """
        for turn in self.plan.turns():
            _say(f"{turn.model}: starting {turn.contestant}")
            async with self.start(turn.contestant, self.settings[turn.model]) as contestant:
                await self._turn(turn, contestant)

    async def _turn(self, turn: Turn, contestant: Contestant) -> None:
        requests = self.requests[turn.model]
        condition, used = None, 0
        for part in turn.parts:
            if part.condition != condition:
                condition, used = part.condition, _WARM_UP  # conditions share images, but no vision tokens
                warm_up = requests.between(0, _WARM_UP)
                await in_turns(_calls(contestant, condition, warm_up, []), _WARM_UP)
            rate = None if part.load.rate_factor is None else part.load.rate_factor * self._rate_base()
            moments = list(_moments(part.load, rate))
            number = part.load.requests or len(moments)
            result = await _measure(part, contestant, requests.between(used, used + number), rate, moments)
            used += number
            result.write(self.folder)
            self._note(result)

    def _rate_base(self) -> float:
        if self.base is None:
            raise RuntimeError(f"rates are multiples of what {HEADLINE_CALLERS} callers get, which was not measured")
        return self.base

    def _note(self, result: Result) -> None:
        part = result.part
        first = part.contestant == self.plan.contestants[0] and part.condition == Condition()
        if self.base is None and first and part.model == PROPORTIONED and part.load.callers == HEADLINE_CALLERS:
            self.base = result.images_per_second
        failed = len(result.samples) - len(result.answered)
        _say(
            f"{part.name}: {result.images_per_second:.2f} images/s, first token {result.first(50):.2f} s (p50), "
            f"{result.first(99):.2f} s (p99)" + (f", {failed} failed" if failed else "")
        )


async def _measure(
    part: Part, contestant: Contestant, requests: Sequence[Request], rate: float | None, moments: Sequence[float]
) -> Result:
    samples: list[Sample] = []
    calls = _calls(contestant, part.condition, requests, samples)
    with Watch(contestant.roots) as watch:
        if part.load.callers is None:
            await on_arrival(calls, moments)
        else:
            await in_turns(calls, part.load.callers)
    return Result(
        part=part,
        rate=rate,
        seconds=watch.seconds,
        samples=tuple(samples),
        memory_mib=watch.memory_mib,
        server_cpu_seconds=watch.server_cpu_seconds,
        caller_cpu_seconds=watch.caller_cpu_seconds,
        other_cpu_seconds=watch.other_cpu_seconds,
        loopback_bytes=watch.loopback_bytes,
        start_seconds=contestant.start_seconds,
    )


def _calls(
    contestant: Contestant, condition: Condition, requests: Sequence[Request], samples: list[Sample]
) -> Iterator[Call]:
    async def call(place: int, request: Request) -> None:
        sample = await contestant.ask(request, condition)
        if request.example is not None and request.question is not None:
            sample = replace(sample, score=score(request.example.scene, request.question, sample.text))
        samples[place] = sample

    samples[:] = [Sample(error="unfinished")] * len(requests)  # in the order of the requests, not in that of their ends
    return (call(place, request) for place, request in enumerate(requests))


def _moments(load: Load, rate: float | None) -> Iterator[float]:
    return iter(()) if rate is None else arrivals(random.Random(_SEED), rate, load.seconds)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
