"""Runs one pattern twice: once with the rule and once with an oracle."""

import asyncio
from dataclasses import dataclass

from visionsplit.errors import OverloadedError

from tests.admission_patterns.patterns import Call, Pattern
from tests.admission_patterns.services import Device, Parallel, Service
from tests.admission_patterns.simulated_time import run

MOST_MORE_REFUSED = 0.01  # of the calls, beyond what the oracle refuses
MOST_MISSED = 0.03  # of the calls let in; most of them come while the service's speed is not known yet, or changes


@dataclass
class Outcome:
    """What became of the calls of one pattern, or of several."""

    calls: int = 0
    served: int = 0
    refused: int = 0
    refused_while_idle: int = 0
    missed: int = 0  # let in, and given up by their callers before their turn came

    def add(self, other: "Outcome") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def by_rule(pattern: Pattern) -> Outcome:
    """Calls are refused by the rule."""
    return run(_serve(pattern, refuses=True))


def by_oracle(pattern: Pattern) -> Outcome:
    """Exactly the calls are refused whose turn would come too late.

    No call is refused here, and each leaves when its time is up. A call that leaves before its turn has cost the others
    nothing, as if it had been refused at its arrival because its wait was known.
    """
    outcome = run(_serve(pattern, refuses=False))
    outcome.refused, outcome.missed = outcome.missed, 0
    return outcome


async def _serve(pattern: Pattern, *, refuses: bool) -> Outcome:
    service = (Device if pattern.device else Parallel)(pattern)
    outcome = Outcome(calls=len(pattern.calls))
    async with asyncio.TaskGroup() as group:
        for call in pattern.calls:
            group.create_task(_one(service, call, outcome, refuses=refuses))
    return outcome


async def _one(service: Service, call: Call, outcome: Outcome, *, refuses: bool) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(call.at - loop.time())
    await asyncio.sleep(call.upload)
    try:
        await service.serve(call, call.deadline, refuses=refuses)
    except OverloadedError:
        outcome.refused += 1
        outcome.refused_while_idle += service.idle
    except TimeoutError:
        outcome.missed += 1
    else:
        outcome.served += 1
        await asyncio.sleep(call.reading)
