"""The measured parts as files, and the figures that are computed from them."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.plan import Part

_RUN = "run.json"


@dataclass(frozen=True)
class Sample:
    """One request, as its caller saw it. Times are seconds from the request's start."""

    tokens: tuple[float, ...] = ()  # when each token came; tokens that came together have the same time
    seconds: float = 0.0  # until the end of the answer, or until it failed
    text: str = ""
    ids: tuple[int, ...] = ()  # of the answer's tokens
    prompt_tokens: int = 0
    wire_bytes: int = 0  # of vision tokens between visionsplit's services
    error: str | None = None  # the class of the error
    score: float | None = None  # of the answer, 0 or 1, where there is a right one

    @property
    def first(self) -> float:
        """Time to first token; infinite if none came."""
        return self.tokens[0] if self.tokens else math.inf

    @property
    def waits(self) -> Iterator[float]:
        """Times between tokens."""
        return (later - earlier for earlier, later in pairwise(self.tokens))

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Sample":
        return cls(**{**plain, "tokens": tuple(plain["tokens"]), "ids": tuple(plain["ids"])})


@dataclass(frozen=True)
class Result:
    """One measured part."""

    part: Part
    rate: float | None  # requests/s that were sent, with an open loop
    seconds: float  # from the first request to the last end
    samples: tuple[Sample, ...]
    memory_mib: Mapping[str, float]  # PSS by process, when their sum was largest
    server_cpu_seconds: float
    caller_cpu_seconds: float
    other_cpu_seconds: float  # of all other programs on the machine
    loopback_bytes: int  # all that the loopback interface carried meanwhile
    start_seconds: float  # that the contestant took to start

    @property
    def answered(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is None]

    @property
    def images_per_second(self) -> float:
        return len(self.answered) / self.seconds

    @property
    def right(self) -> float:
        """The share of right answers; requests that failed are not right."""
        return statistics.fmean(sample.score or 0.0 for sample in self.samples)

    def first(self, percentile: float) -> float:
        """Time to first token, seconds; NaN without an answer."""
        return _percentile([sample.first for sample in self.answered], percentile)

    def between(self, percentile: float) -> float:
        """Time between two tokens of an answer, seconds; NaN without an answer of two tokens."""
        return _percentile([wait for sample in self.answered for wait in sample.waits], percentile)

    def whole(self, percentile: float) -> float:
        """Time of a whole answer, seconds; NaN without an answer."""
        return _percentile([sample.seconds for sample in self.answered], percentile)

    def goodput(self, target: "Target") -> float:
        """Answers per second that met the target."""
        return sum(target.met_by(sample) for sample in self.answered) / self.seconds

    def per_request(self, total: float) -> float:
        """A total as a share of one answered request; NaN without an answer."""
        return total / len(self.answered) if self.answered else math.nan

    def write(self, folder: Path) -> None:
        plain = {**asdict(self), "part": self.part.as_plain()}
        (folder / f"{self.part.name}.json").write_text(json.dumps(plain) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Result":
        plain = json.loads(path.read_text())
        samples = tuple(Sample.from_plain(one) for one in plain["samples"])
        return cls(**{**plain, "part": Part.from_plain(plain["part"]), "samples": samples})


@dataclass(frozen=True)
class Target:
    """A latency that callers accept, in seconds."""

    first: float  # time to first token
    whole: float  # time of the whole answer

    def met_by(self, sample: Sample) -> bool:
        return sample.first <= self.first and sample.seconds <= self.whole


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements with the least and the greatest; no range if there was one."""

    median: float
    low: float
    high: float
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __format__(self, spec: str) -> str:
        middle = format(self.median, spec)
        return middle if self.number == 1 else f"{middle} ({self.low:{spec}} to {self.high:{spec}})"


@dataclass(frozen=True)
class Saved:
    """A folder's run: facts, and the results so far."""

    facts: Mapping[str, Any]
    results: tuple[Result, ...]

    @classmethod
    def read(cls, folder: Path) -> "Saved":
        """Read a run.

        Raises:
            OSError: the folder holds none.
        """
        facts = json.loads((folder / _RUN).read_text())
        paths = sorted(path for path in folder.glob("*.json") if path.name != _RUN)
        return cls(facts, tuple(Result.read(path) for path in paths))


def begin(folder: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder of a new run; an earlier run's results there are deleted, so that a report never mixes two."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    (folder / _RUN).write_text(json.dumps(facts, indent=2) + "\n")


def _percentile(values: Sequence[float], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if values else math.nan
