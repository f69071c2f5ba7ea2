"""A few attacks on both services as processes, with default settings; `make attack` runs all of them."""

import pytest

from tests.fuzzing.attacks import ATTACKS
from tests.fuzzing.attacks.campaign import campaign


@pytest.mark.timeout(180)
async def test_who_keeps_the_rules_does_not_notice_who_does_not() -> None:
    # Other tests run beside this one, so that only a service that stands still is told from a busy machine.
    attacks = [attack for attack in ATTACKS if attack.quick]
    lines = [outcome.line() async for outcome in campaign(attacks, seconds=1.0, most_p99_seconds=4.0) if outcome.faults]
    assert not lines, "\n".join(lines)
