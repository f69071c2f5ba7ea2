"""The stages put together as a Ray dataset."""

import math
from typing import Any

from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy, read_datasource

from encoder_service.config import EncoderConfig
from llm_service.config import LlmConfig
from visionsplit_batch.rows import Source
from visionsplit_batch.runners.base import Stage, Work
from visionsplit_batch.runners.feed import FeedDatasource
from visionsplit_batch.runners.pools import Pools, Size, bounds
from visionsplit_batch.runners.reading import read
from visionsplit_batch.runners.stages import Asking, Encoding

_ENCODER_CALLS = 3  # units in an encoder at once: one is cut into tiles, one encoded, one sent on


class Pipeline:
    """What is to run where, before it runs.

    Each stage takes whole units, several at once: the services inside make batches across them, so that a language
    model is full also between one unit and the next. A unit that was in a process which ended is done again by another.
    """

    def __init__(
        self, source: Source, work: Work, encoder: EncoderConfig | None, llm: LlmConfig | None, pools: Pools
    ) -> None:
        """`encoder` and `llm` are those that the work needs; None for the others."""
        self._source = source
        self._work = work
        self._encoder = encoder
        self._llm = llm
        self._pools = pools  # that leave nothing open
        # More than the engine runs at once, so that the next rows wait inside it.
        self._llm_calls = 0 if llm is None else math.ceil(llm.engine.max_running / pools.unit_rows) + 1

    @property
    def places(self) -> dict[Stage, int]:
        """Units that each stage works on at once, with its pool at its largest."""
        places: dict[Stage, int] = {"read": self._pools.readers}
        if self._encoder is not None:
            places["encode"] = bounds(self._pools.encoders)[1] * _ENCODER_CALLS
        if self._llm is not None:
            places["ask"] = bounds(self._pools.llms)[1] * self._llm_calls
        return places

    @property
    def most_units(self) -> int:
        """Units on their way that keep every stage busy and have the next at hand."""
        return math.ceil(1.5 * sum(self.places.values())) + 4

    def dataset(self, feed: Any) -> Dataset:  # noqa: ANN401 - an actor's handle
        """The stream of units that have been through all stages. Nothing runs before it is read."""
        with DataContext.current(_context()):
            # Without a CPU to its name, the feed never waits for one. Also, Ray Data joins stages of equal demands.
            data = read_datasource(FeedDatasource(feed), num_cpus=0, override_num_blocks=1)
            data = data.map_batches(
                read,
                fn_kwargs={
                    "source": self._source,
                    "feed": feed,
                    "following": "ask" if self._encoder is None else "encode",
                },
                batch_size=1,
                batch_format="pyarrow",
                compute=TaskPoolStrategy(size=self._pools.readers),
                num_cpus=self._pools.reader_cpus,
            )
            if self._encoder is not None:
                cpus, gpus = self._pools.encoder_cpus, self._pools.encoder_gpus or 0.0
                arguments = {"config": self._encoder, "work": self._work, "cpus": cpus, "feed": feed}
                data = _pool(data, Encoding, arguments, self._pools.encoders, _ENCODER_CALLS, cpus, gpus)
            if self._llm is not None:
                cpus, gpus = self._pools.llm_cpus or 1.0, self._pools.llm_gpus or 0.0
                arguments = {"config": self._llm, "work": self._work, "cpus": cpus, "feed": feed}
                data = _pool(data, Asking, arguments, self._pools.llms, self._llm_calls, cpus, gpus)
            return data


def _pool(
    data: Dataset, stage: type, arguments: dict[str, Any], size: Size, calls: int, cpus: float, gpus: float
) -> Dataset:
    least, most = bounds(size)
    return data.map_batches(
        stage,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=calls + 1,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        ),
        num_cpus=cpus,
        num_gpus=gpus,
    )


def _context() -> DataContext:
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False  # the job has its own
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    # Each unit is given on at once: by default Ray Data collects tables of 128 MB first.
    context.target_max_block_size = 1
    return context
