"""The comparison with vLLM: the plan's turns, the arithmetic, and the page from saved results."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers import report, results
from benchmarks.peers.plan import GENERATE, PROPORTIONED, SHIPPED, VLLM, Condition, Load, Part, Plan
from benchmarks.peers.results import Result, Sample, Saved, Spread, Target
from benchmarks.peers.rows import rows, target_of
from benchmarks.peers.tables import behind_table, same_answers, throughput_table
from tests.contract.test_documentation import DIALECT, LONGEST, prose

OURS = "visionsplit-transformers"
FACTS = {
    "command": "make bench-peers",
    "machine": "a machine, 2 cores, no GPU",
    "visionsplit": "0.1.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "vllm": "vllm 0.32.0 with torch 2.13.0 and transformers 5.19.0",
    "torchvision": False,
    "allocator": "libtcmalloc_minimal.so.4",
    "max_new_tokens": 16,
    "repetitions": 2,
    "quick": False,
}


def sample(first: float, *waits: float, ids: tuple[int, ...] = (5, 6), score: float | None = None) -> Sample:
    tokens = [first]
    for wait in waits:
        tokens.append(tokens[-1] + wait)
    return Sample(tuple(tokens), tokens[-1], "a cat", ids, 100, 2000, score=score)


def result(
    contestant: str,
    load: Load,
    *samples: Sample,
    seconds: float,
    repetition: int = 1,
    condition: Condition = Condition(),  # noqa: B008 - frozen
    model: str = PROPORTIONED,
) -> Result:
    part = Part(model, contestant, condition, load, repetition)
    rate = None if load.callers else 2.0
    return Result(part, rate, seconds, samples, {"a": 100.0, "b": 50.0}, 3.0, 0.1, 0.05 * seconds, 5000, 9.0)


CALLERS = Load(16, 2)


def two_repetitions() -> Saved:
    """vLLM takes 2 and 4 seconds for two answers, visionsplit 1 and 4 at 100%, and 0.5 and 1 at 10%."""
    tenth = Condition("globalcom2", 0.1)
    found = [
        result(contestant, CALLERS, sample(first, 0.1), sample(first, 0.3), seconds=seconds, repetition=repetition)
        if condition == Condition()
        else result(
            contestant, CALLERS, *[sample(first, 0.1)] * 2, seconds=seconds, repetition=repetition, condition=condition
        )
        for contestant, condition, first, seconds, repetition in [
            (VLLM, Condition(), 1.0, 2.0, 1),
            (VLLM, Condition(), 1.0, 4.0, 2),
            (OURS, Condition(), 1.5, 4.0, 1),
            (OURS, Condition(), 1.5, 4.0, 2),
            (OURS, tenth, 0.5, 0.5, 1),
            (OURS, tenth, 0.5, 1.0, 2),
        ]
    ]
    return Saved(FACTS, tuple(found))


def test_contestants_take_turns_and_long_loads_come_once():
    plan = Plan(
        contestants=[VLLM, GENERATE, OURS],
        ratios=[1.0, 0.25, 0.1],
        methods=["globalcom2", "globalcom2-diverse"],
        repetitions=2,
        repeated=[Load(1, 4), CALLERS],
        once=[Load(4, 8)],
        heavy=[Load(64, 64), Load(rate_factor=2.0, seconds=5.0)],
        heavy_ratios=[1.0, 0.1],
        questions=10,
    )
    turns = list(plan.turns())
    assert [(turn.model, turn.contestant) for turn in turns] == [
        *[(PROPORTIONED, name) for name in (VLLM, GENERATE, OURS)] * 2,
        *[(SHIPPED, name) for name in (VLLM, GENERATE, OURS)],
    ]
    loads = [[part.load.name for part in turn.parts if part.condition == Condition()] for turn in turns]
    assert loads[0] == loads[2] == ["callers1", "callers16"]
    assert loads[3] == loads[5] == ["callers1", "callers16", "callers4", "callers64", "rate2"]
    assert loads[4] == ["callers1", "callers16", "callers4"], "a loop answers no load that takes it minutes"
    quarter = [part for part in turns[5].parts if part.condition == Condition("globalcom2-diverse", 0.25)]
    assert [part.load.name for part in quarter] == ["callers1", "callers16", "callers4"]
    names = [part.name for turn in turns for part in turn.parts]
    assert len(set(names)) == len(names)


def test_percentiles_count_answers_and_waits_between_their_tokens():
    one = result(VLLM, CALLERS, sample(1.0, 0.1, 0.2), sample(3.0, 0.3), Sample(error="TimeoutError"), seconds=4.0)
    assert one.images_per_second == 0.5
    assert one.first(50) == 2.0
    assert one.between(50) == pytest.approx(0.2)
    assert one.between(100) == pytest.approx(0.3)
    assert one.whole(100) == pytest.approx(3.3)
    assert math.isnan(result(VLLM, CALLERS, Sample(error="TimeoutError"), seconds=1.0).first(50))


def test_goodput_counts_answers_that_began_and_ended_in_time():
    one = result(
        VLLM,
        CALLERS,
        sample(1.0, 0.5),
        sample(1.0, 2.0),
        sample(2.0, 0.1),
        Sample(error="OverloadedError"),
        seconds=2.0,
    )
    assert one.goodput(Target(first=1.5, whole=2.0)) == 0.5
    assert one.goodput(Target(first=1.5, whole=3.0)) == 1.0
    assert Sample().first == math.inf


def test_failed_requests_are_not_right():
    scores = [sample(1.0, score=1.0), sample(1.0, score=0.0), Sample(error="TimeoutError"), sample(1.0, score=1.0)]
    assert result(VLLM, CALLERS, *scores, seconds=1.0).right == 0.5


def test_a_multiple_of_vllm_is_taken_within_a_repetition():
    ours = next(row for row in rows(two_repetitions(), PROPORTIONED, CALLERS.name) if row.name.endswith("100%"))
    times = ours.of_vllm(lambda one: one.images_per_second)
    assert times == Spread(0.75, 0.5, 1.0, 2)
    assert f"{times:.2f}" == "0.75 (0.50 to 1.00)"
    assert f"{Spread.of([2.0]):.1f}" == "2.0"
    target, name = target_of(Saved(FACTS, tuple(_with_one_caller())), 5.0)
    assert (target, name) == (Target(5.0, 6.0), "vLLM, whole model")


def _with_one_caller() -> list[Result]:
    return [
        result(contestant, Load(1, 4), sample(first, 0.2), seconds=2.0)
        for contestant, first in ((OURS, 9.0), (VLLM, 1.0))
    ]


def test_what_is_behind_is_named():
    table = behind_table(two_repetitions())
    assert table is not None
    (line,) = table.splitlines()[2:]
    assert line == "| visionsplit, transformers, 100% | 16 | 0.75 (0.50 to 1.00) | 1.50 (1.50 to 1.50) |"
    ahead = [one for one in two_repetitions().results if one.part.contestant == VLLM or one.part.condition.ratio < 1]
    assert behind_table(Saved(FACTS, tuple(ahead))) is None


def test_answers_are_compared_request_by_request():
    one = result(VLLM, CALLERS, sample(1.0, ids=(5, 6)), sample(1.0, ids=(5, 7)), seconds=1.0)
    other = result(OURS, CALLERS, sample(2.0, ids=(5, 6)), sample(2.0, ids=(5, 6)), seconds=1.0)
    assert same_answers(one, other) == 0.5


def test_a_page_is_drawn_from_what_was_saved(tmp_path: Path):
    saved = two_repetitions()
    rate, shipped = Load(rate_factor=2.0, seconds=5.0), Load(16, 2)
    more = [
        *_with_one_caller(),
        result(GENERATE, Load(1, 4), sample(3.0, 0.2), seconds=2.0),
        result(VLLM, rate, sample(1.0, 0.2), Sample(error="TimeoutError"), seconds=2.0),
        result(VLLM, shipped, sample(1.0, score=1.0), sample(1.0, score=0.0), seconds=1.0, model=SHIPPED),
    ]
    results.begin(tmp_path, {**FACTS, "quick": True})
    results.begin(tmp_path, FACTS)
    for one in (*saved.results, *more):
        one.write(tmp_path)
    read = Saved.read(tmp_path)
    assert {one.part.name: one for one in read.results} == {one.part.name: one for one in (*saved.results, *more)}
    page = report.draw(read, tmp_path / "drawn").read_text()
    assert throughput_table(saved, 16) in page
    assert "- visionsplit, transformers, 100%: 3.00 times.\n" in page, "of the loop's time to first token"
    assert "| 2.00 | vLLM, whole model | 0.50 | 0.50 | 50% | 1.00 | 1.00 | 1 |" in page
    assert "- vLLM, whole model, proportioned model, rate2: 1 of 2 requests failed." in page
    assert {path.name for path in (tmp_path / "drawn").glob("*.png")} == {"peers-latency.png", "peers-accuracy.png"}
    assert "- Other programs took at most 5% of one core" in page
    check_prose(page)


def check_prose(page: str) -> None:
    assert "$" not in page
    lines = prose(page).splitlines()
    assert [line for line in lines if len(line.rstrip()) > LONGEST and line[0] != "|"] == []
    assert DIALECT.findall(prose(page)) == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_page_of_a_run_that_was_stopped_says_what_is_missing(tmp_path: Path, number: int):
    page = report.draw(Saved(FACTS, two_repetitions().results[:number]), tmp_path).read_text()
    assert ("Nothing has been measured yet." in page) == (number == 0)
    assert page.count("Not measured in this run.") == (6 if number == 0 else 3)
    assert page.count(".png") == len(list(tmp_path.glob("*.png"))) == number
    check_prose(page)


def test_a_new_run_deletes_an_earlier_one(tmp_path: Path):
    results.begin(tmp_path, FACTS)
    replace(two_repetitions().results[0], seconds=1.0).write(tmp_path)
    results.begin(tmp_path, FACTS)
    assert Saved.read(tmp_path).results == ()
