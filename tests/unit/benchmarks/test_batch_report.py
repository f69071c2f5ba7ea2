"""The report of the batch benchmark."""

import pytest

from benchmarks.batch.jobs import JobRun, LoopRuns
from benchmarks.batch.loop import Caption, LoopRun
from benchmarks.batch.report import Job, table, verdicts

CAPTIONS = {"0.jpg": Caption("a cat", 2), "1.jpg": Caption("a dog", 2)}


def loop(*seconds: float, tower_seconds: float = 0.5) -> LoopRuns:
    """A run for each batch size from 1 on, all of them with the same answers."""
    runs = (LoopRun(size, taken, 0.5, tower_seconds, CAPTIONS) for size, taken in enumerate(seconds, start=1))
    return LoopRuns(start_seconds=4.0, threads=2, torch="2", runs=tuple(runs))


def job(ratio: float, seconds: float, mode: str = "services") -> Job:
    captions = {**CAPTIONS, "1.jpg": Caption("a dog", 3)}
    run = JobRun(seconds, seconds + 1.0, 720.0, ratio, {"ask": 1.0}, captions)
    return Job(mode, ratio, run, start_seconds=2.0, work_seconds=seconds)


@pytest.mark.parametrize(
    ("ratio", "seconds", "word"), [(1.0, 8.0, "PASS"), (1.0, 8.1, "FAIL"), (0.1, 3.2, "PASS"), (0.1, 3.3, "FAIL")]
)
def test_a_job_is_held_against_the_fastest_loop(ratio: float, seconds: float, word: str) -> None:
    (verdict,) = verdicts(loop(10.0, 8.0, 9.0), [job(ratio, seconds)])
    assert verdict.text.startswith(f"{word} batch job, services, {ratio:.0%}: ")
    assert verdict.failed == (word == "FAIL")


def test_of_other_models_it_is_only_said() -> None:
    (verdict,) = verdicts(loop(8.0), [job(1.0, 10.0)], must=False)
    assert verdict.text.startswith("BELOW batch job, services, 100%: 0.80 times the loop")
    assert not verdict.failed


def test_nobody_can_be_quicker_than_what_compression_does_not_save() -> None:
    (verdict,) = verdicts(loop(8.0, tower_seconds=3.5), [job(0.1, 4.0)])
    assert (
        verdict.text
        == "OUT OF REACH batch job, services, 10%: 2.00 times the loop, 2.5 needed, 2.00 possible with this model"
    )
    assert not verdict.failed


def test_ratios_that_must_not_be_anything_are_only_shown() -> None:
    assert verdicts(loop(8.0), [job(0.5, 100.0)]) == []


def test_the_table_compares_with_and_without_starting_up() -> None:
    rows = table(loop(10.0, 8.0), [job(1.0, 4.0), job(1.0, 4.0, mode="ray")]).splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[0] for row in cells] == [
        "loop, batch 1",
        "loop, batch 2 (the fastest)",
        "batch job, services, 100%",
        "batch job, ray, 100%",
    ]
    assert [row[2] for row in cells] == ["0.80 x", "1.00 x", "2.00 x", "2.00 x"]
    assert [row[5] for row in cells] == ["0.86 x", "1.00 x", "1.71 x", "2.40 x"]  # services' start comes on top
    assert [row[8] for row in cells] == ["100%", "100%", "50%", "50%"]
