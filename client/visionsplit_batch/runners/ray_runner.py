"""Starts services on a Ray cluster, and lets actors there read the rows and call the services."""

import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayActorError, RayError
from visionsplit_client import UnavailableError, VisionSplitError

from encoder_service.config import EncoderConfig
from llm_service.backends.ray_cluster import connect, last_line
from llm_service.backends.ray_logging import quiet_ray
from llm_service.config import LlmConfig
from visionsplit_batch.rows.rows import Failure, Outcome, Slice, Source
from visionsplit_batch.runners.base import RunnerIdentity, StageUse, Work
from visionsplit_batch.runners.pieces import LostWorkerError, Piece, cut_into_pieces
from visionsplit_batch.runners.pools import Pools
from visionsplit_batch.runners.ray_reader import Lost, Reader, Result, Worked
from visionsplit_batch.runners.ray_services import RayServices, check_compression
from visionsplit_batch.runners.row_calls import first_stage, stage_places
from visionsplit_batch.runners.usage import StageClock


@dataclass
class _ReaderUse:
    """A reader. One that ends is replaced: calls to a new actor wait until it is there, while calls to one that Ray
    starts again fail meanwhile."""

    actor: Any  # Ray has no types
    rows: int = 0  # that it works on


@dataclass(frozen=True)
class _Call:
    """A piece that a reader works on."""

    piece: Piece
    reader: _ReaderUse
    actor: Any


class RayRunner:
    """Starts the services itself and stops them with the run.

    Readers are Ray actors, so that a large cluster reads on several machines, and a file that crashes the library which
    reads it does not end the job. Each row that is lost with a process, a reader's or a service's, is worked on again.

    Args:
        encoder: how the encoders are set up; None for work that encodes nothing. Address and LLM service are left out.
        llm: how the language models are set up; None for work that asks nothing.
        pools: GPUs are used where there are any, unless it says otherwise.
        on_start: called once with a description of what is started.
        address: of a Ray cluster to join, "auto" or HOST:PORT, whose machines have this package and the checkpoints;
            "local" starts one on this machine. Where the process is connected to one already, that one is used.
        application: names the language models on the cluster, see `RayServices`; None makes a name.

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
        application: str | None = None,
        on_start: Callable[[str], None] | None = None,
    ) -> None:
        if (work.kind != "ask" and encoder is None) or (work.kind != "encode" and llm is None):
            raise ValueError(f"work of the kind {work.kind!r} needs a model that is not given")
        self._source = source
        self._work = work
        self._pools = pools or Pools()
        self._address = address
        self._application = application or f"visionsplit-batch-{uuid.uuid4().hex[:16]}"
        self._on_start = on_start
        self._encoder = None if work.kind == "ask" else encoder
        self._llm = None if work.kind == "encode" else llm
        if self._encoder is not None:
            check_compression(work, self._encoder)
        self._in_flight = self._pools.in_flight(work.kind)
        self._first = first_stage(work.kind)
        self._clock = StageClock(stage_places(work.kind, in_flight=self._in_flight, read_threads=1))
        self._identity: RunnerIdentity | None = None
        self._services: RayServices | None = None
        self._readers: list[_ReaderUse] = []
        self._running: Generator[Outcome, None, None] | None = None
        self._owns_cluster = False

    def identity(self) -> RunnerIdentity:
        if self._identity is None:
            raise RuntimeError("the runner is not entered")
        return self._identity

    def stages(self) -> tuple[StageUse, ...]:
        return self._clock.take()

    def __enter__(self) -> Self:
        quiet_ray()
        try:
            self._services = self._placed(self._connect())
            self._services.start()
            self._identity = self._services.identity()
            self._readers = self._start_readers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.close()  # its caller may have stopped iterating
        for reader in self._readers:
            ray.kill(reader.actor)
        if self._services is not None:
            self._services.stop()
        if self._owns_cluster:
            self._owns_cluster = False
            ray.shutdown()

    def run(self, slices: Iterator[Slice]) -> Iterator[Outcome]:
        self._running = self._run(slices)
        return self._running

    def _connect(self) -> bool:
        """Connect to Ray; whether the cluster is started for the job."""
        if ray.is_initialized():
            return False
        alone = self._address == "local"
        options: dict[str, Any] = {}
        if alone:
            options = {
                "num_cpus": self._pools.on(self._work.kind, gpus=torch.cuda.device_count(), alone=True).cpus(
                    self._work.kind
                ),
                "object_store_memory": self._pools.object_store_bytes,
                "include_dashboard": False,
                # A record of every task would take memory for as long as the job runs.
                "_system_config": {"task_events_report_interval_ms": 0, "enable_metrics_collection": False},
            }
        connect(self._address, **options)
        self._owns_cluster = True
        return alone

    def _placed(self, alone: bool) -> RayServices:
        """The services, with what runs on which device fixed."""
        kind = self._work.kind
        self._pools = pools = self._pools.on(kind, gpus=ray.cluster_resources().get("GPU", 0.0), alone=alone)
        if self._on_start is not None:
            self._on_start(pools.describe(kind))
        return RayServices(
            self._work,
            self._encoder,
            self._llm,
            pools,
            host="127.0.0.1" if alone else None,
            application=self._application,
        )

    def _start_readers(self) -> list[_ReaderUse]:
        readers = [_ReaderUse(self._new_reader()) for _ in range(self._pools.readers(self._work.kind))]
        try:
            ray.get([reader.actor.ready.remote() for reader in readers])
        except RayError as error:
            raise _translated(error) from error
        return readers

    def _new_reader(self) -> Any:  # noqa: ANN401 - an actor's handle
        assert self._services is not None
        actor = ray.remote(Reader).options(
            num_cpus=self._pools.reader_cpus, max_concurrency=self._in_flight, scheduling_strategy="SPREAD"
        )
        rows = -(-self._in_flight // self._pools.readers(self._work.kind))
        return actor.remote(self._source, self._work, self._services.llm, rows)

    def _run(self, slices: Iterator[Slice]) -> Generator[Outcome, None, None]:
        pieces = cut_into_pieces(slices)
        again: deque[Piece] = deque()  # lost pieces
        pending: dict[Any, _Call] = {}
        try:
            while True:
                self._fill(pieces, again, pending)
                if not pending:
                    return
                done, _ = ray.wait(list(pending))
                yield from self._ended(pending.pop(done[0]), done[0], again)
        except RayError as error:
            raise _translated(error) from error
        finally:
            for call in pending:
                ray.cancel(call)
            for reader in self._readers:
                reader.rows = 0
            self._clock.clear()

    def _fill(self, pieces: Iterator[Piece], again: deque[Piece], pending: dict[Any, _Call]) -> None:
        """Give the readers work while there is room: twice as many rows as they call about, so that they never wait."""
        assert self._services is not None
        encoders = self._services.encoders
        while sum(reader.rows for reader in self._readers) < 2 * self._in_flight:
            if again and again[0].alone and pending:
                return  # until they have ended
            if again or not (encoders or self._work.kind == "ask"):
                encoders = self._services.wait_until_serving()
            piece = again.popleft() if again else next(pieces, None)
            if piece is None:
                return
            reader = min(self._readers, key=lambda one: one.rows)
            reader.rows += piece.rows
            if not piece.losses:
                self._clock.move(piece.rows, into=self._first)
            pending[reader.actor.work.remote(piece.slice, encoders)] = _Call(piece, reader, reader.actor)
            if piece.alone:
                return

    def _ended(self, call: _Call, answer: Any, again: deque[Piece]) -> Iterator[Outcome]:  # noqa: ANN401
        """The outcomes of a piece; rows without a result are put into `again`, or have failed for good."""
        piece, rows = call.piece, call.piece.slice
        call.reader.rows -= piece.rows
        lost = []
        for number, result in enumerate(self._results(call, answer)):
            id = rows.entries[number].id
            if isinstance(result, Lost):
                if not piece.last_try:
                    lost.append(number)
                    continue
                error = LostWorkerError(f"the process that worked on this row alone ended each time: {result.reason}")
                result = Failure.of(error, result.stage)
            self._clock.move(1, out=self._first)
            yield Outcome(rows.part, rows.indices[number], id, result)
        if lost:
            again.extend(piece.lost(lost))

    def _results(self, call: _Call, answer: Any) -> Sequence[Result | Lost]:  # noqa: ANN401
        """A result for each row of the piece. A reader that ended is replaced."""
        try:
            worked: Worked = ray.get(answer)
        except RayActorError as error:
            if call.reader.actor is call.actor:  # the reader's loss ends each of its calls, one by one
                call.reader.actor = self._new_reader()
            return [Lost("read", str(error))] * call.piece.rows
        for stage, seconds in worked.seconds.items():
            self._clock.worked(stage, seconds)
        return worked.results


def _translated(error: Exception) -> VisionSplitError:
    """What was behind an error of Ray's: one of ours, or that the cluster did not do it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, VisionSplitError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return UnavailableError(f"the work on the Ray cluster failed: {last_line(error)}")
