"""Works by itself: Ray Data moves the rows through pools of encoders and language models, on one machine or many."""

import itertools
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import ray
import torch
from ray.data._internal.stats import get_or_create_stats_actor
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from visionsplit_client import UnavailableError, VisionSplitError

from encoder_service.config import EncoderConfig
from llm_service.backends.ray_cluster import connect
from llm_service.backends.ray_logging import quiet_ray
from llm_service.config import LlmConfig
from visionsplit_batch.rows import Outcome, Slice, Source
from visionsplit_batch.runners.base import RunnerIdentity, Stage, StageUse, Work
from visionsplit_batch.runners.feed import Feed
from visionsplit_batch.runners.hosts import compression_of
from visionsplit_batch.runners.pipeline import Pipeline
from visionsplit_batch.runners.placement import identify_checkpoints, placed_encoder, placed_llm
from visionsplit_batch.runners.pools import Pools
from visionsplit_batch.runners.units import unpack
from visionsplit_batch.runners.usage import StageClock


class RayDataRunner:
    """Starts the services itself, each in a process of its own, and stops them with the run.

    The input is a stream of units, a few rows each, that the driver hands out one by one as others come back: its
    memory and Ray's object store hold only what is on its way. See `FeedDatasource` for why it is one dataset.

    Args:
        encoder: how the encoders are set up; None for work that encodes nothing. Address and LLM service are left out.
        llm: how the language models are set up; None for work that asks nothing. One replica runs in each process.
        pools: GPUs are used where there are any, unless it says otherwise.
        on_start: told once, in words, what is started; models are loaded with the first rows, which takes its time.
        address: of a Ray cluster to join, "auto" or HOST:PORT, whose machines have this package and the checkpoints;
            "local" starts one on this machine. Where the process is connected to one already, that one is used.

    Raises:
        ValueError: the work needs an encoder or a language model that is not given.
        InvalidCompressionError: the compression does not exist or does not go with the encoder.
    """

    def __init__(
        self,
        source: Source,
        work: Work,
        *,
        encoder: EncoderConfig | None = None,
        llm: LlmConfig | None = None,
        pools: Pools | None = None,
        address: str = "local",
        on_start: Callable[[str], None] | None = None,
    ) -> None:
        if (work.kind != "ask" and encoder is None) or (work.kind != "encode" and llm is None):
            raise ValueError(f"work of the kind {work.kind!r} needs a model that is not given")
        self._source = source
        self._work = work
        self._pools = pools or Pools()
        self._address = address
        self._on_start = on_start
        self._encoder = None if work.kind == "ask" else encoder
        self._llm = None if work.kind == "encode" else llm
        if self._encoder is not None:
            compression_of(self._encoder, work)
        self._pipeline = Pipeline(source, work, self._encoder, self._llm, self._pools)
        self._clock = StageClock(self._pipeline.places)
        self._identity: RunnerIdentity | None = None
        self._feed: Any = None
        self._running: Generator[Outcome, None, None] | None = None
        self._owns_cluster = False

    def identity(self) -> RunnerIdentity:
        if self._identity is None:
            raise RuntimeError("the runner is not entered")
        return self._identity

    def stages(self) -> tuple[StageUse, ...]:
        uses = self._clock.take()
        feed = self._feed
        if feed is None:
            return uses
        try:
            rows: dict[Stage, int] = ray.get(feed.rows.remote(), timeout=1.0)
        except RayError:  # the run ends just now, or the cluster is busy: it is only for the display
            return uses
        return tuple(replace(use, rows=rows.get(use.name, 0)) for use in uses)

    def __enter__(self) -> Self:
        quiet_ray()
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        if not ray.is_initialized() and self._address == "local":
            self._place(torch.cuda.device_count(), alone=True)
            self._connect(
                num_cpus=self._pools.cpus(self._work.kind),
                object_store_memory=self._pools.object_store_bytes,
                include_dashboard=False,
                # Nobody looks at a record of every task, some 15 KB a unit, or at metrics.
                _system_config={"task_events_report_interval_ms": 0, "enable_metrics_collection": False},
            )
            return self
        if not ray.is_initialized():
            self._connect()
        try:
            self._place(ray.cluster_resources().get("GPU", 0.0), alone=False)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _place(self, gpus: float, *, alone: bool) -> None:
        """Fix what runs on which device."""
        self._pools = pools = self._pools.on(self._work.kind, gpus=gpus, alone=alone)
        self._encoder = None if self._encoder is None else placed_encoder(self._encoder, pools)
        self._llm = None if self._llm is None else placed_llm(self._llm, pools)
        self._identity = identify_checkpoints(self._work, self._encoder, self._llm)
        self._pipeline = Pipeline(self._source, self._work, self._encoder, self._llm, pools)
        if self._on_start is not None:
            self._on_start(pools.describe(self._work.kind))

    def _connect(self, **options: Any) -> None:  # noqa: ANN401 - those of ray.init
        connect(self._address, **options)
        self._owns_cluster = True

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.close()  # its caller may have left it half way
        if self._owns_cluster:
            self._owns_cluster = False
            ray.shutdown()

    def run(self, slices: Iterator[Slice]) -> Iterator[Outcome]:
        self._running = self._run(slices)
        return self._running

    def _run(self, slices: Iterator[Slice]) -> Generator[Outcome, None, None]:
        pieces = _cut(slices, self._pools.unit_rows)
        most = max(self._pools.rows_per_dataset // self._pools.unit_rows, 1)
        while (first := next(pieces, None)) is not None:
            yield from self._dataset(itertools.chain([first], itertools.islice(pieces, most - 1)))
            if self._owns_cluster and self._address == "local":
                # It grows with every unit. The next dataset starts another; on a cluster of others it is not ours.
                ray.kill(get_or_create_stats_actor())

    def _dataset(self, pieces: Iterator[Slice]) -> Iterator[Outcome]:
        """The outcomes of what one dataset works on."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._feed = feed = ray.remote(Feed).options(num_cpus=0, scheduling_strategy=here).remote()
        numbered, pending = enumerate(pieces), set[int]()
        try:
            self._fill(feed, numbered, pending)
            data = self._pipeline.dataset(feed)
            tables: Any = iter(data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
            with closing(tables):
                for table in tables:
                    unit = unpack(table)
                    if unit is None or unit.number not in pending:
                        continue  # made again after a loss, though it was through
                    if unit.error is not None:
                        raise unit.error
                    pending.remove(unit.number)
                    feed.finish.remote(unit.number)
                    for stage, seconds in unit.seconds.items():
                        self._clock.worked(stage, seconds)
                    self._fill(feed, numbered, pending)
                    yield from unit.outcomes()
            if pending:
                raise UnavailableError(f"the Ray cluster lost {len(pending)} units of rows")
        except (RayError, SystemException, ExecutionTimeoutError) as error:
            raise _translated(error) from error
        finally:
            self._feed = None
            ray.kill(feed)

    def _fill(self, feed: Any, pieces: Iterator[tuple[int, Slice]], pending: set[int]) -> None:  # noqa: ANN401
        """Hand out units while there is room. Each is waited for: an actor's calls may overtake one another."""
        while len(pending) < self._pipeline.most_units:
            number, piece = next(pieces, (0, None))
            if piece is None:
                ray.get(feed.end.remote(self._pools.readers))
                return
            pending.add(number)
            ray.get(feed.put.remote(number, piece))


def _cut(slices: Iterator[Slice], rows: int) -> Iterator[Slice]:
    """Pieces of so many rows at most."""
    for one in slices:
        for start in range(0, len(one.entries), rows):
            some = slice(start, start + rows)
            yield Slice(one.part, one.indices[some], one.entries[some])


def _translated(error: Exception) -> VisionSplitError:
    """What was behind an error of Ray's: one of ours, or that the cluster did not do it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, VisionSplitError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    lines = str(error).strip().splitlines()
    return UnavailableError(
        f"the work on the Ray cluster failed: {lines[-1].strip() if lines else type(error).__name__}"
    )
