"""The check for repeated ids."""

import tracemalloc

import pytest
from visionsplit_batch.errors import InputError
from visionsplit_batch.rows.rows import Entry
from visionsplit_batch.sources.unique import unique


def entries(count, twice=()):
    for number in range(count):
        yield Entry(f"a/long/path/to/one/of/many/images/{number:07d}.png", "file", (number,))
        if number in twice:
            yield Entry(f"a/long/path/to/one/of/many/images/{twice[number]:07d}.png", "file", (-number,))


def test_it_takes_little_memory():
    tracemalloc.start()
    seen = sum(1 for _ in unique(lambda: entries(100_000), str))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 100_000
    assert peak < 2_000_000  # the ids alone are several times this


@pytest.mark.parametrize(("at", "first"), [(5000, 3), (5000, 4999), (2, 2), (5000, 5000)])
def test_both_places_are_named(at, first):
    listing = unique(lambda: entries(6000, {at: first}), lambda entry: f"row {entry.place[0]}")
    with pytest.raises(InputError, match=rf"{first:07d}.png' comes twice: row {first} and row -{at}$"):
        list(listing)


def test_nothing_is_lost_and_the_order_stays():
    assert list(unique(lambda: entries(5000), str)) == list(entries(5000))
