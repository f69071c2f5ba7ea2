"""Runs attacks one after another, each beside a caller that keeps the rules, and records what both experience."""

import asyncio
import contextlib
import json
import math
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzzing.attacks.base import Attack
from tests.fuzzing.attacks.beside import QUESTIONS, TIMEOUT_SECONDS
from tests.fuzzing.attacks.target import Target, running_target

QUIET_SECONDS = 2.0  # before each attack, for what is usual
MOST_P99_SECONDS = 1.0  # beyond what is usual
MOST_GROWTH = 1.2  # of resident memory, once it has settled
MOST_MIB = {"encoder": 3072.0, "llm": 2304.0}  # at the peak: three quarters of what docker-compose.yml gives each
SETTLE_SECONDS = 20.0  # in which memory has to return
_WARM_SECONDS = 4.0
_OVER_SECONDS = 90.0  # that an attack may take beyond its time, then it is given up
_LOOK_SECONDS = 0.05
_LOW_PRIORITY = 5


@dataclass(frozen=True)
class Sample:
    """One question of the caller beside."""

    at: float  # CLOCK_MONOTONIC
    question: str
    seconds: float
    fault: str | None


@dataclass
class Outcome:
    """What an attack did."""

    attack: str
    note: str
    seconds: float
    latency: dict[str, tuple[float, float, float, float]]  # of each question: usual p99, then p50, p99 and maximum
    memory: dict[str, tuple[float, float, float]]  # MiB of each service: before, at the peak, when it had settled
    faults: list[str] = field(default_factory=list)

    def line(self) -> str:
        worst = max(self.latency, key=lambda name: self.latency[name][2], default="none")
        usual, p50, p99, slowest = self.latency.get(worst, (0.0, 0.0, 0.0, 0.0))
        memory = "  ".join(
            f"{name} {before:.0f}/{peak:.0f}/{after:.0f}" for name, (before, peak, after) in self.memory.items()
        )
        verdict = "ok" if not self.faults else "; ".join(self.faults)
        return (
            f"{self.attack:<36} {self.seconds:5.1f} s  {worst} p50 {p50:.2f} p99 {p99:.2f} max {slowest:.2f} "
            f"(usual {usual:.2f})  MiB {memory}  [{self.note}]  {verdict}"
        )


class Beside:
    """The lawful caller beside the attack, in a separate process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.samples: list[Sample] = []
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def of(cls, target: Target) -> AsyncIterator["Beside"]:
        options = ["--encoder", target.encoder.address, "--llm", target.llm.address]
        if target.folder is not None:
            token = target.folder / "friend"
            token.write_text(target.token("friend"))
            options += ["--authority", str(target.folder / "authority.pem"), "--token-file", str(token)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fuzzing.attacks.beside", *options), stdout=asyncio.subprocess.PIPE
        )
        beside = cls(process)
        try:
            if unanswered := await beside.after(0.0):
                raise RuntimeError(f"the services answer no {', '.join(unanswered)} before any attack")
            yield beside
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await asyncio.gather(beside._reading, return_exceptions=True)

    async def after(self, moment: float) -> list[str]:
        """Wait until each question has an answer, an error included, to a call after a moment; those without one."""
        deadline = time.monotonic() + 2 * TIMEOUT_SECONDS + SETTLE_SECONDS
        while True:
            answered = {sample.question for sample in self.samples if sample.at >= moment}
            left = [question for question in QUESTIONS if question not in answered]
            if not left or time.monotonic() > deadline:
                return left
            if self._process.returncode is not None:
                raise RuntimeError("the caller beside has ended")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.samples.append(Sample(**json.loads(line)))


async def attacked(attack: Attack, target: Target, beside: Beside, seconds: float, most_p99_seconds: float) -> Outcome:
    """Watch the services in peace, attack them, and see what becomes of them."""
    quiet = time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    await beside.after(quiet)
    before = target.resident_mib()
    started = time.monotonic()
    with _peak_of(target) as peak:
        note = await asyncio.to_thread(_run_behind, attack, target, seconds)
        ended = time.monotonic()
        unanswered = await beside.after(ended)
    outcome = Outcome(attack.name, note, ended - started, {}, {})
    outcome.faults += [f"the {name} service has ended" for name in target.ended()]
    outcome.faults += [f"{question} is not answered afterwards" for question in unanswered]
    most_p99 = math.inf if attack.left_to_a_proxy else most_p99_seconds
    _judge_answers(outcome, beside.samples, (quiet, started, ended), most_p99)
    await _judge_memory(outcome, target, before, peak)
    outcome.faults += attack.check(target)
    return outcome


def _run_behind(attack: Attack, target: Target, seconds: float) -> str:
    """Run an attack on this thread, at low priority: a real attacker would use other machines."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)

    async def run() -> str:
        async with asyncio.timeout(seconds + _OVER_SECONDS):
            return await attack.run(target, seconds)

    try:
        return asyncio.run(run())
    except TimeoutError:
        return f"given up after {seconds + _OVER_SECONDS:g} s"
    except Exception as error:  # of the attacker; the services are looked at all the same
        return f"{type(error).__name__}: {error}"


def _judge_answers(
    outcome: Outcome, samples: Sequence[Sample], moments: tuple[float, float, float], most_p99_seconds: float
) -> None:
    """`moments` are the beginning of the quiet time, and the beginning and the end of the attack."""
    quiet, started, ended = moments
    for question in QUESTIONS:
        of = [sample for sample in samples if sample.question == question]
        usual = [one.seconds for one in of if quiet <= one.at and one.at + one.seconds < started]
        during = [one for one in of if one.at + one.seconds >= started]
        times = [one.seconds for one in during]
        if not times:  # one question alone took longer than the attack
            continue
        outcome.latency[question] = (_p99(usual), sorted(times)[len(times) // 2], _p99(times), max(times))
        limit = most_p99_seconds + _p99(usual)
        if _p99(times) > limit:
            outcome.faults.append(f"{question} p99 {_p99(times):.1f} s")
        first = next((one for one in of if one.at >= ended), None)
        if first is not None and first.seconds > limit and _p99(times) <= limit:
            outcome.faults.append(f"{question} took {first.seconds:.1f} s afterwards")
        wrong = [one.fault for one in during if one.fault is not None]
        if wrong:
            outcome.faults.append(f"{question} failed {len(wrong)} of {len(during)}: {wrong[0][:120]}")


async def _judge_memory(outcome: Outcome, target: Target, before: dict[str, float], peak: dict[str, float]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        now = target.resident_mib()
        grown = [name for name in now if now[name] > before[name] * MOST_GROWTH]
        if not grown or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    outcome.memory = {name: (before[name], max(peak[name], before[name]), now[name]) for name in now}
    outcome.faults += [f"{name} keeps {now[name] - before[name]:.0f} MiB" for name in grown]
    outcome.faults += [f"{name} had {peak[name]:.0f} MiB" for name in now if peak[name] > MOST_MIB[name]]


@contextmanager
def _peak_of(target: Target) -> Iterator[dict[str, float]]:
    """The most resident memory, in MiB, looked at by a thread: the attacker's own loop may be busy."""
    peak: dict[str, float] = defaultdict(float)
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            for name, size in target.resident_mib().items():
                peak[name] = max(peak[name], size)

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _p99(times: Sequence[float]) -> float:
    return sorted(times)[math.ceil(0.99 * len(times)) - 1] if times else 0.0


async def campaign(
    attacks: Sequence[Attack],
    *,
    seconds: float,
    folder: Path | None = None,
    most_p99_seconds: float = MOST_P99_SECONDS,
) -> AsyncIterator[Outcome]:
    """Each attack in turn; services that an attack has harmed are started again.

    Args:
        seconds: the duration of an attack that does not end by itself.
        most_p99_seconds: by which the p99 of the caller beside may rise.
        folder: for TLS and tokens; None leaves both off.
    """
    left = list(attacks)
    while left:
        with running_target(folder) as target:
            async with Beside.of(target) as beside:
                await asyncio.sleep(_WARM_SECONDS)
                outcome = None
                while left and (outcome is None or not outcome.faults):
                    outcome = await attacked(left.pop(0), target, beside, seconds, most_p99_seconds)
                    yield outcome
