"""A pool of encoder services on a Ray cluster: started, watched, scaled."""

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from visionsplit.errors import InternalError, UnavailableError, VisionSplitError

from encoder_service.config import EncoderConfig
from llm_service.backends.ray_cluster import last_line
from visionsplit_ray.encoder_actor import EncoderActor, Report
from visionsplit_ray.scaling import Load, ScaleRule

_log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 1.0
_START_PAUSE_SECONDS = 0.1  # between looks at encoders that start, where one that is not there yet fails at once
_ANSWER_SECONDS = 1.0
# A busy encoder may answer late. One that is silent for longer is left out of the addresses until it answers.
_SILENCE_SECONDS = 10.0
_STOP_SECONDS = 15.0  # that a process may take to end after its calls


@dataclass(frozen=True)
class PoolConfig:
    """The size of a pool, and what each encoder takes of a machine.

    Raises:
        ValueError: a number out of its range.
    """

    least: int = 1
    most: int = 1
    num_cpus: float = 1.0  # of one encoder, which computes with as many threads where it has no GPU
    num_gpus: float = 0.0
    # Where encoders listen on this machine, which then runs all of them: one address for each of `most`, which keeps it
    # when Ray starts it again. Empty: at free ports of whichever machines Ray chooses.
    listen: tuple[str, ...] = ()
    scale: ScaleRule = field(default_factory=ScaleRule)

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"a pool of {self.least} to {self.most} encoders; 1 <= least <= most is needed")
        if self.listen and len(self.listen) != self.most:
            raise ValueError(f"{len(self.listen)} addresses for {self.most} encoders; one for each is needed")


@dataclass
class _Member:
    number: int
    actor: Any  # Ray has no types
    asked: Any = None  # a report that was asked for
    address: str | None = None
    tiles: int = 0
    answered: float = 0.0  # time.monotonic of the last report
    died: bool = False  # whether Ray answered the last question by saying that the actor died
    leaving: Any = None  # the end of its last calls, once it is told to stop


class EncoderPool:
    """Equal encoders. Any thread may ask for the addresses; one thread starts and stops the pool.

    Ray starts an encoder again when its process ends, perhaps on another node. The pool asks every encoder each second
    for its address and its load, so that `addresses` follows within a second or two.
    """

    def __init__(self, config: EncoderConfig, pool: PoolConfig) -> None:
        self._config = config
        self._pool = pool
        self._lock = threading.Lock()  # over all of the following
        self._members: list[_Member] = []
        self._load = Load(pool.scale)
        self._ending = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="encoder-pool", daemon=True)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of the encoders that serve, as far as known."""
        now = time.monotonic()
        with self._lock:
            return tuple(
                member.address
                for member in self._members
                if member.address is not None and now - member.answered < _SILENCE_SECONDS
            )

    def start(self, timeout: float) -> None:
        """Start the least number of encoders and wait until all of them serve, at most `timeout` seconds.

        Raises:
            VisionSplitError, ValueError: an encoder cannot serve.
            UnavailableError: they did not serve in time.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._members = [self._new(number) for number in range(self._pool.least)]
        while len(self.addresses) < self._pool.least and not self._ending.wait(_START_PAUSE_SECONDS):
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{len(self.addresses)} of {self._pool.least} encoders serve on the Ray cluster after "
                    f"{timeout:g} seconds; has the cluster room for them?"
                )
            self._look(starting=True)
        if not self._ending.is_set():
            self._watching.start()

    def look(self) -> tuple[str, ...]:
        """Ask all encoders now; the addresses of those that answer within a second."""
        asked_at = time.monotonic()
        self._look()
        with self._lock:
            return tuple(one.address for one in self._members if one.address and one.answered >= asked_at)

    def stop(self, grace: float) -> None:
        """Give running calls `grace` seconds to end, then end all encoders."""
        self._ending.set()
        if self._watching.is_alive():
            self._watching.join()
        with self._lock:
            members, self._members = self._members, []
        ends = [member.leaving or member.actor.stop.remote(grace) for member in members]
        if ends and grace:
            ray.wait(ends, num_returns=len(ends), timeout=grace + _STOP_SECONDS)
        for member in members:
            ray.kill(member.actor)

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_EVERY_SECONDS):
            try:
                self._look()
                self._scale()
            except RayError:  # the cluster is busy, or ends; the next look tells
                _log.warning("the encoders cannot be asked how they are", exc_info=True)

    def _look(self, *, starting: bool = False) -> None:
        """Ask those that owe no answer, and take the answers that come within a second."""
        with self._lock:
            members = [member for member in self._members if member.leaving is None]
            for member in members:
                member.asked = member.asked or member.actor.report.remote()
            asked = {member.asked: member for member in members}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
        for answer in ready:
            member = asked[answer]
            report = self._report(member, answer, starting=starting)
            with self._lock:
                member.asked = None
                if report is None:
                    member.address, member.tiles = None, 0
                    continue
                if report.address != member.address:
                    _log.info("encoder %d serves on %s", member.number, report.address)
                member.address, member.tiles, member.answered = report.address, report.tiles, time.monotonic()

    def _report(self, member: _Member, answer: Any, *, starting: bool) -> Report | None:  # noqa: ANN401
        """None where the process ended; Ray starts it again."""
        died, member.died = member.died, False
        try:
            report: Report = ray.get(answer)
            return report
        except ActorDiedError as error:
            reason = last_line(error)
            if starting:
                raise InternalError(f"an encoder cannot start: {reason}") from error
            _log.warning("encoder %d is lost: %s", member.number, reason)
            # A process that ends is started again by Ray, and its running calls end with this error too. Ray gives an
            # actor up whose configuration cannot be read, as on a machine without this package. Each call then ends so.
            member.died = True
            if died:
                ray.kill(member.actor)
                member.actor = self._new_actor(member.number)
        except RayActorError as error:
            if member.address is not None:
                _log.warning("encoder %d is lost, and Ray starts it again: %s", member.number, error)
        except RayTaskError as error:
            cause = error.cause
            if starting and isinstance(cause, VisionSplitError | ValueError):
                raise cause from None
            if starting:
                raise InternalError(f"an encoder cannot start: {cause}") from error
            _log.warning("encoder %d cannot serve and is started again: %s", member.number, cause)
            ray.kill(member.actor, no_restart=False)
        return None

    def _scale(self) -> None:
        """Add or remove one encoder, by the rule; end those that have drained."""
        with self._lock:
            drained = [one for one in self._members if one.leaving and ray.wait([one.leaving], timeout=0)[0]]
            self._members = [one for one in self._members if one not in drained]
            serving = [one for one in self._members if one.leaving is None]
            self._load.note(time.monotonic(), sum(one.tiles for one in serving))
            # An encoder that has never served is on its way: another one would not come sooner.
            change = self._load.change(len(serving)) if all(one.answered for one in serving) else 0
            if change > 0 and len(serving) < self._pool.most:
                taken = {one.number for one in self._members}
                number = min(set(range(self._pool.most)) - taken, default=None)
                if number is not None:  # else its place is taken by one that drains
                    _log.info("encoder %d is added", number)
                    self._members.append(self._new(number))
                    self._load.clear()
            elif change < 0 and len(serving) > self._pool.least:
                last = max(serving, key=lambda one: one.number)
                _log.info("encoder %d is removed", last.number)
                last.address, last.leaving = None, last.actor.stop.remote(self._config.grace_seconds)
                self._load.clear()
        for member in drained:
            with contextlib.suppress(RayError):
                ray.kill(member.actor)

    def _new(self, number: int) -> _Member:
        return _Member(number, self._new_actor(number))

    def _new_actor(self, number: int) -> Any:  # noqa: ANN401 - Ray has no types
        pool = self._pool
        strategy: Any = "SPREAD"
        if pool.listen:
            strategy = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(EncoderActor).options(
            num_cpus=pool.num_cpus, num_gpus=pool.num_gpus, max_restarts=-1, scheduling_strategy=strategy
        )
        return actor.remote(self._config, pool.listen[number] if pool.listen else None)
