"""When a pool of encoders grows or shrinks."""

import pytest

from visionsplit_ray.gpus import gpu_share
from visionsplit_ray.scaling import Load, ScaleRule

RULE = ScaleRule(grow_tiles=10, grow_seconds=3, shrink_tiles=4, shrink_seconds=6)


def load(*tiles: int) -> Load:
    """A load that was noted once a second."""
    noted = Load(RULE)
    for second, number in enumerate(tiles):
        noted.note(100.0 + second, number)
    return noted


@pytest.mark.parametrize(
    ("tiles", "encoders", "change"),
    [
        ((), 1, 0),
        ((50, 50, 50), 1, 0),  # for less than 3 seconds
        ((50, 50, 50, 50), 1, 1),
        ((50, 50, 50, 50), 5, 0),  # 10 for each
        ((0, 0, 0, 0, 0, 0, 0, 50, 50, 50, 50), 4, 1),
        ((0, 0, 0, 0, 0, 0), 2, 0),  # for less than 6 seconds
        ((0, 0, 0, 0, 0, 0, 0), 2, -1),
        ((0, 0, 0, 0, 0, 0, 0), 1, 0),  # no rule ends the last one
        ((7, 7, 7, 7, 7, 7, 7), 3, -1),
        ((7, 7, 7, 8, 7, 7, 7), 3, 0),  # too many for two
    ],
)
def test_the_load_of_some_seconds_decides(tiles: tuple[int, ...], encoders: int, change: int):
    assert load(*tiles).change(encoders) == change


def test_a_pool_of_another_size_is_watched_from_the_beginning():
    noted = load(50, 50, 50, 50)
    noted.clear()
    noted.note(104.0, 50)
    assert noted.change(1) == 0


def test_a_gpu_is_shared_evenly():
    assert [gpu_share(gpus, workers) for gpus, workers in ((0, 2), (1, 2), (2, 3), (4, 2), (1, 0))] == [
        0,
        0.5,
        0.5,
        1,
        0,
    ]
