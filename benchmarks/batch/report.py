"""The results as a table, and the conditions that they must meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.batch.jobs import JobRun, LoopRuns
from benchmarks.batch.loop import Caption
from benchmarks.efficiency.tables import markdown

NEEDED = {1.0: 1.0, 0.1: 2.5}  # ratio -> images a second, as a multiple of the loop's


@dataclass(frozen=True)
class Job:
    """The figures of a batch job's run for the comparison."""

    mode: str  # "services" or "ray"
    ratio: float
    run: JobRun
    start_seconds: float  # until the models were ready
    work_seconds: float  # from the first row to the last, without the start

    @property
    def name(self) -> str:
        return f"batch job, {self.mode}, {self.ratio:.0%}"

    @property
    def whole_seconds(self) -> float:
        """Images per second including everything that had to be started."""
        return self.run.command_seconds + (self.start_seconds if self.mode == "services" else 0.0)


@dataclass(frozen=True)
class Verdict:
    """A check of whether a job is fast enough."""

    text: str
    failed: bool


def table(loop: LoopRuns, jobs: Sequence[Job]) -> str:
    """A row for each run; every run is compared with the fastest loop."""
    best = loop.best
    number, base = len(best.captions), best.seconds
    whole_base = loop.start_seconds + base
    rows = [
        (
            f"loop, batch {run.batch_size}{' (the fastest)' if run is best else ''}",
            f"{number / run.seconds:.3f}",
            f"{base / run.seconds:.2f} x",
            f"{loop.start_seconds:.1f}",
            f"{number / (loop.start_seconds + run.seconds):.3f}",
            f"{whole_base / (loop.start_seconds + run.seconds):.2f} x",
            "100%",
            f"{_mean_tokens(run.captions):.1f}",
            _same(run.captions, loop.runs[0].captions),
        )
        for run in loop.runs
    ]
    rows += [
        (
            job.name,
            f"{number / job.work_seconds:.3f}",
            f"{base / job.work_seconds:.2f} x",
            f"{job.start_seconds:.1f}",
            f"{number / job.whole_seconds:.3f}",
            f"{whole_base / job.whole_seconds:.2f} x",
            f"{job.run.kept:.1%}",
            f"{_mean_tokens(job.run.captions):.1f}",
            _same(job.run.captions, loop.runs[0].captions),
        )
        for job in jobs
    ]
    header = ("", "images/s", "of the loop", "start s", "with start", "of the loop", "tokens kept", "new tokens")
    return markdown((*header, f"answers as batch {loop.runs[0].batch_size}"), rows)


def stages(jobs: Sequence[Job]) -> str:
    """How busy each stage of each job was."""
    busy = [(job.name, ", ".join(f"{name} {share:.0%}" for name, share in job.run.busy.items())) for job in jobs]
    return markdown(("", "busy"), busy)


def bound(loop: LoopRuns) -> float:
    """How many times as fast as the loop a job would be if its language model took no time."""
    best = loop.best
    return best.seconds / (best.prepare_seconds + best.tower_seconds)


def shares(loop: LoopRuns, jobs: Sequence[Job]) -> str:
    """How large the images are, where the loop's time is spent, and what remains to gain."""
    best = loop.best
    prepare, tower = best.prepare_seconds / best.seconds, best.tower_seconds / best.seconds
    tokens = f"An image has {jobs[0].run.vision_tokens:.0f} vision tokens on average. " if jobs else ""
    return (
        f"{tokens}Of the loop's time, reading and cutting images takes {prepare:.1%} and the vision tower {tower:.1%}; "
        f"no compression saves any of it. A job that does it no quicker is at most {bound(loop):.2f} times as fast."
    )


def verdicts(loop: LoopRuns, jobs: Sequence[Job], *, must: bool = True) -> list[Verdict]:
    """One check for each job whose ratio has a required speed; without `must` none fails."""
    return [_verdict(loop, job, NEEDED[job.ratio], must=must) for job in jobs if job.ratio in NEEDED]


def _verdict(loop: LoopRuns, job: Job, needed: float, *, must: bool) -> Verdict:
    reached = loop.best.seconds / job.work_seconds
    text = f"{job.name}: {reached:.2f} times the loop, {needed:g} needed"
    if reached >= needed:
        return Verdict(f"PASS {text}", failed=False)
    if needed > bound(loop):
        return Verdict(f"OUT OF REACH {text}, {bound(loop):.2f} possible with this model", failed=False)
    return Verdict(f"{'FAIL' if must else 'BELOW'} {text}", failed=must)


def same_answers(captions: Mapping[str, Caption], others: Mapping[str, Caption]) -> float:
    """The share of images with the same text of the same number of tokens."""
    return sum(captions.get(name) == caption for name, caption in others.items()) / len(others)


def _same(captions: Mapping[str, Caption], others: Mapping[str, Caption]) -> str:
    return f"{same_answers(captions, others):.0%}"


def _mean_tokens(captions: Mapping[str, Caption]) -> float:
    return sum(caption.tokens for caption in captions.values()) / len(captions)
