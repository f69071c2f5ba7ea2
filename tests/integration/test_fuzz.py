"""A few hundred hostile requests to both services; `make fuzz` sends ten thousand."""

from pathlib import Path

import pytest

from tests.fuzzing.check import check


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:PIL.Image.DecompressionBombWarning")
async def test_no_request_harms_the_services(random_checkpoints: dict[str, Path]) -> None:
    report = await check(random_checkpoints["llama"], seed=1, numbers=range(600))
    assert not report.faults
    assert report.codes["image: OK"] > 0  # some images are odd, yet sound
    assert report.codes["mutated: OK"] > 0
    assert report.codes["garbage: INVALID_ARGUMENT"] > 0
