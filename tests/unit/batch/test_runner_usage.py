"""How busy the stages are."""

import time

from visionsplit_batch.runners.usage import StageClock


def test_shares_are_of_the_places_time_since_last_asked():
    clock = StageClock({"read": 1, "ask": 1000})
    clock.move(5, into="read")
    clock.move(2, out="read", into="ask")
    clock.worked("read", 1000.0)
    with clock.working("ask"):
        time.sleep(0.01)
    read, ask = clock.take()
    assert (read.name, read.places, read.busy, read.rows) == ("read", 1, 1.0, 3)
    assert (ask.name, ask.places, ask.rows) == ("ask", 1000, 2)
    assert 0 < ask.busy < 0.01
    clock.clear()
    assert [(use.busy, use.rows) for use in clock.take()] == [(0.0, 0), (0.0, 0)]
