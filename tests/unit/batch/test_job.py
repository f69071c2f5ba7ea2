"""A job's parts, its journal and its resumption; rows are processed at once, in the test's order."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from visionsplit_batch.errors import OutputError, RefusedRunError, TooManyFailuresError
from visionsplit_batch.job.job import Counts, Job, JobOptions, JobSummary
from visionsplit_batch.job.saved_progress import RunFolder
from visionsplit_batch.rows.rows import Content, Entry, Failure, Outcome, Slice
from visionsplit_batch.runners import StageUse
from visionsplit_batch.sinks import sink_for
from visionsplit_batch.storage.storage import Storage

from tests.unit.batch.outcomes import LABELS, answered

SETTINGS = {"input": "numbers", "work": {"ratio": 0.25}}


class Numbers:
    """Rows named after their numbers."""

    def __init__(self, rows: int, name: str = "row") -> None:
        self.rows = rows
        self.name = name
        self.listed = 0

    def settings(self) -> dict[str, str]:
        return {}

    def entries(self) -> Iterator[Entry]:
        for number in range(self.rows):
            self.listed += 1
            yield Entry(f"{self.name} {number}", "numbers", (number,))

    def read(self, entries: Sequence[Entry]) -> Iterator[Content]:
        return iter([Content() for _ in entries])


class Immediate:
    """Answers rows in a random order, some way behind those that it takes; may fail some and stop after some."""

    def __init__(self, *, fail: Set[int] = frozenset(), stop_after: int | None = None, seed: int = 0) -> None:
        self.fail = fail
        self.stop_after = stop_after
        self.done: list[int] = []
        self._chance = random.Random(seed)

    def stages(self) -> tuple[StageUse, ...]:
        return ()

    def run(self, slices: Iterator[Slice]) -> Iterator[Outcome]:
        waiting: list[Outcome] = []
        for one in slices:
            for index, entry in zip(one.indices, one.entries, strict=True):
                answer = answered(entry.id, (f"answer {index}",), index=index)
                failure = Failure("InvalidImageError", f"bad {index}", "encode")
                waiting.append(
                    replace(answer, part=one.part, result=failure)
                    if index in self.fail
                    else replace(answer, part=one.part)
                )
            while len(waiting) > 20:
                yield from self._give(waiting)
        while waiting:
            yield from self._give(waiting)

    def _give(self, waiting: list[Outcome]) -> Iterator[Outcome]:
        if self.stop_after is not None and len(self.done) >= self.stop_after:
            raise KeyboardInterrupt
        outcome = waiting.pop(self._chance.randrange(len(waiting)))
        self.done.append(outcome.index)
        yield outcome


class Run:
    """Jobs that write into one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[Counts] = []

    def __call__(
        self, source: Numbers, runner: Immediate, *, settings: Mapping[str, Any] = SETTINGS, **options: object
    ) -> JobSummary:
        folder = RunFolder(str(self.path), Storage())
        sink = sink_for("jsonl", Storage(), LABELS, [])
        with folder.opened(dict(settings)):
            job = Job(
                source,
                runner,
                folder,
                sink,
                JobOptions(**{"rows_per_part": 10, "rows_per_slice": 4, **options}),
                total=source.rows,
                on_progress=self.seen.append,
            )
            return job.run()

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.path.glob("*.jsonl"))}

    def ids(self) -> list[str]:
        return [
            json.loads(line)["id"]
            for name, data in self.files().items()
            if name != "errors.jsonl"
            for line in data.splitlines()
        ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "out")


def test_rows_are_written_in_their_order_in_parts_of_equal_length(run: Run) -> None:
    summary = run(Numbers(35), Immediate())
    assert run.ids() == [f"row {number}" for number in range(35)]
    assert [len(data.splitlines()) for data in run.files().values()] == [10, 10, 10, 5]
    assert (summary.held.parts, summary.held.written, summary.held.failed) == (4, 35, 0)
    assert summary.counts.tokens_after < summary.counts.tokens_before
    assert run.seen[-1].ended == 35


@pytest.mark.parametrize("seed", range(8))
def test_a_job_that_is_stopped_anywhere_goes_on_and_writes_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    fail = set(chance.sample(range(57), 5))
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    whole(Numbers(57), Immediate(fail=fail))
    done: list[int] = []
    for attempt in range(5):
        runner = Immediate(fail=fail, stop_after=chance.randrange(12), seed=attempt)
        with pytest.raises(KeyboardInterrupt):
            broken(Numbers(57), runner)
        done += [index for index in runner.done if index not in fail]
    last = Immediate(fail=fail, seed=9)
    broken(Numbers(57), last)
    done += [index for index in last.done if index not in fail]
    assert sorted(done) == sorted(set(range(57)) - fail)  # no answer was thrown away, none made twice
    assert broken.files() == whole.files()
    assert not list(broken.path.rglob("*.journal"))


def test_what_a_crash_left_of_a_line_is_done_again(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(10), Immediate(stop_after=6))
    journal = run.path / "_run" / "part-00000.journal"
    journal.write_bytes(journal.read_bytes()[:-5])
    again = Immediate()
    run(Numbers(10), again)
    assert len(again.done) == 5
    assert run.ids() == [f"row {number}" for number in range(10)]


@pytest.mark.parametrize("damage", [b"\0\0\0\n", b'{"index": 3}\n', b'{"index": 3, "item": {"id": 5}}\n', b"[]\n"])
def test_a_journal_that_a_power_cut_damaged_is_used_as_far_as_it_is_whole(run: Run, damage: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(10), Immediate(stop_after=6))
    journal = run.path / "_run" / "part-00000.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(10), Immediate(stop_after=3))
    again = Immediate()
    run(Numbers(10), again)
    assert len(again.done) == 5
    assert run.ids() == [f"row {number}" for number in range(10)]


def test_a_part_whose_files_came_but_not_its_end_is_written_again(run: Run) -> None:
    run(Numbers(20), Immediate())
    before = run.files()
    (run.path / "_run" / "part-00001.json").unlink()
    again = Immediate()
    run(Numbers(20), again)
    assert sorted(again.done) == list(range(10, 20))
    assert run.files() == before


def test_a_finished_job_has_nothing_to_do(run: Run) -> None:
    run(Numbers(20), Immediate())
    again = Immediate()
    summary = run(Numbers(20), again)
    assert again.done == []
    assert (summary.held.written, summary.counts.before, summary.counts.ended) == (20, 20, 0)


def test_other_settings_are_refused_and_named(run: Run) -> None:
    run(Numbers(5), Immediate())
    with pytest.raises(RefusedRunError, match=r"work\.ratio was 0\.25, is 0\.5"):
        run(Numbers(5), Immediate(), settings={"input": "numbers", "work": {"ratio": 0.5}})


def test_settings_of_names_that_are_not_utf8_are_found_again(run: Run) -> None:
    settings = {"input": "caf\udce9", "work": "雪"}
    run(Numbers(5), Immediate(stop_after=None), settings=settings)
    stored = run.path / "_run" / "settings.json"
    stored.write_bytes(stored.read_bytes().replace(rb"\udce9", b"\xe9"))  # as older versions wrote them
    assert run(Numbers(5), Immediate(), settings=settings).held.written == 5
    with pytest.raises(RefusedRunError) as refused:
        run(Numbers(5), Immediate(), settings={**settings, "input": "caf\udcea"})
    assert str(refused.value).encode()  # it can be printed
    stored.write_text("{")
    with pytest.raises(RefusedRunError, match="cannot be understood"):
        run(Numbers(5), Immediate(), settings=settings)


def test_another_input_is_refused(run: Run) -> None:
    run(Numbers(25), Immediate())
    with pytest.raises(RefusedRunError, match="part 2, which begins with row 20"):
        run(Numbers(26), Immediate())
    with pytest.raises(RefusedRunError, match="part 0"):
        run(Numbers(25, "line"), Immediate())


def test_an_input_that_lost_whole_parts_is_refused(run: Run) -> None:
    run(Numbers(30), Immediate())
    with pytest.raises(RefusedRunError, match=r"the input differs from the one with which .* it ends before part 2"):
        run(Numbers(20), Immediate())
    assert run(Numbers(30), Immediate()).counts.before == 30


def test_a_part_that_lost_a_file_is_done_again(run: Run) -> None:
    run(Numbers(30), Immediate(fail={3, 13}))
    run(Numbers(30), Immediate(), retry_errors=True)
    (run.path / "part-00000.jsonl").unlink()
    (run.path / "part-00001.retry1.jsonl").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(30), Immediate(stop_after=4))
    again = Immediate()
    assert run(Numbers(30), again).held.written == 30
    assert len(again.done) == 16
    assert sorted(run.ids()) == sorted(f"row {number}" for number in range(30))


def test_a_folder_without_permission_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(RefusedRunError, match=r"the output .* cannot be used: .*Permission denied"):
        run(Numbers(5), Immediate())
    monkeypatch.setattr(Path, "is_file", deny)
    with pytest.raises(RefusedRunError, match=r"the output .* cannot be used"):
        RunFolder(str(run.path), Storage()).check_access()


def test_a_folder_of_something_else_is_left_alone(run: Run) -> None:
    run.path.mkdir()
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(RefusedRunError, match="is not the output of a run"):
        run(Numbers(5), Immediate())
    assert [path.name for path in run.path.rglob("*")] == ["notes.txt"]
    (run.path.parent / "file").write_text("mine")
    with pytest.raises(RefusedRunError, match="is a file"):
        Run(run.path.parent / "file")(Numbers(5), Immediate())


def test_two_jobs_cannot_write_into_one_folder(run: Run) -> None:
    with RunFolder(str(run.path), Storage()).opened(SETTINGS), pytest.raises(OutputError, match="another job"):
        run(Numbers(5), Immediate())
    run(Numbers(5), Immediate())


def test_rows_that_fail_are_listed_and_tried_again_when_asked(run: Run) -> None:
    summary = run(Numbers(30), Immediate(fail={3, 17, 18}))
    assert (summary.held.written, summary.held.failed) == (27, 3)
    errors = [json.loads(line) for line in (run.path / "errors.jsonl").read_text().splitlines()]
    assert [(row["id"], row["error"], row["stage"]) for row in errors] == [
        (f"row {number}", "InvalidImageError", "encode") for number in (3, 17, 18)
    ]
    untouched = run.files()["part-00000.jsonl"]

    assert run(Numbers(30), Immediate()).held.failed == 3  # not without being asked to
    again = Immediate(fail={17})
    summary = run(Numbers(30), again, retry_errors=True)
    assert sorted(again.done) == [3, 17, 18]
    assert (summary.held.written, summary.held.failed, summary.counts.before) == (29, 1, 27)
    assert run.files()["part-00000.jsonl"] == untouched
    assert sorted(run.ids()) == sorted(f"row {number}" for number in range(30) if number != 17)

    assert run(Numbers(30), Immediate(), retry_errors=True).held.failed == 0
    assert not (run.path / "errors.jsonl").exists()
    assert len(run.ids()) == len(set(run.ids())) == 30


def test_retries_that_are_stopped_go_on(run: Run) -> None:
    fail = set(range(0, 30, 2))
    run(Numbers(30), Immediate(fail=fail))
    with pytest.raises(KeyboardInterrupt):
        run(Numbers(30), Immediate(stop_after=7), retry_errors=True)
    again = Immediate()
    run(Numbers(30), again, retry_errors=True)
    assert len(again.done) == 8
    assert sorted(run.ids()) == sorted(f"row {number}" for number in range(30))


def test_too_many_failures_end_the_job(run: Run) -> None:
    with pytest.raises(TooManyFailuresError, match=r"4 rows failed, more than --max-failures 3; the first: bad"):
        run(Numbers(50), Immediate(fail=set(range(50))), max_failures=3)
    with pytest.raises(TooManyFailuresError, match="all of the first 100 rows failed; --max-failures"):
        run(Numbers(500), Immediate(fail=set(range(500))))
    summary = run(Numbers(500), Immediate(fail=set(range(200))), max_failures=200)
    assert (summary.held.written, summary.held.failed) == (300, 200)


def test_the_input_is_listed_no_further_than_the_work_is(run: Run) -> None:
    source = Numbers(100_000)
    with pytest.raises(KeyboardInterrupt):
        run(source, Immediate(stop_after=50))
    assert source.listed < 120
