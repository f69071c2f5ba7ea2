"""The experiments. Each yields its points as soon as they are measured."""

import asyncio
from collections.abc import Callable, Iterator, Sequence

from visionsplit_client import EncodedImage

from benchmarks.load.system import Service
from benchmarks.scale.load import Ask, Questions, encoded
from benchmarks.scale.measure import Effort, Point, Setup, measure
from benchmarks.scale.system import MAX_RUNNING, Machine, free_ports

TILES = 5  # of the benchmark's image
NEW_TOKENS = 16
RATIOS = (0.1, 0.25, 1.0)
# Beside answers of one token: the difference is what tokens cost. A GPU's steps take so long.
LONG_ANSWER, LONG_STEP_SECONDS = 129, 0.02
# Of one device for a request, where devices are to be the limit.
ENCODER_SECONDS, LLM_SECONDS = 0.8, 0.25
_CALLERS_PER_ENCODER = 4
_CALLERS_PER_REPLICA = 2 * MAX_RUNNING  # as many wait as run
_CALLERS_OF_GATEWAY = 32

FULL = Effort((1, 2, 4, 8), (1.0, 0.5, 0.25, 0.1, 0.0), windows=3, window_seconds=6, warm_seconds=4, profile_seconds=8)
QUICK = Effort((1, 2), (1.0, 0.0), windows=2, window_seconds=3, warm_seconds=2, profile_seconds=2)


class Experiments:
    """All experiments of one run."""

    def __init__(self, machine: Machine, effort: Effort) -> None:
        self._machine = machine
        self._effort = effort

    def run(self) -> Iterator[Point]:
        port = free_ports(1)
        with self._machine.encoders(self._effort.sizes[-1], [f"127.0.0.1:{port[0]}"]) as encoders:
            images = {ratio: asyncio.run(encoded(encoders[0].address, ratio)) for ratio in RATIOS}
            yield from self._encoders(encoders)
            yield from self._replicas(encoders, port, images[RATIOS[0]])
        yield from self._gateway(images)
        yield from self._gateways(images[RATIOS[0]])

    def _encoders(self, encoders: Sequence[Service]) -> Iterator[Point]:
        """1 to 8 encoders, then all of them with less and less device time."""
        most = len(encoders)
        whole = [(number, 1.0) for number in self._effort.sizes]
        for number, share in [*whole, *((most, share) for share in self._effort.shares[1:])]:
            self._tile(share * ENCODER_SECONDS)
            setup = Setup("encoders", encoders[:number], device_seconds=share * ENCODER_SECONDS)
            yield self._measure(setup, lambda questions: questions.encode, _CALLERS_PER_ENCODER * number)

    def _replicas(self, encoders: Sequence[Service], port: Sequence[int], image: EncodedImage) -> Iterator[Point]:
        """1 to 8 replicas, alone and behind as many encoders; all of them alone with less and less device time."""
        for number in self._effort.sizes:
            with self._machine.gateways(1, replicas=number, ports=port) as gateways:
                for share in self._effort.shares if number == len(encoders) else (1.0,):
                    yield self._answer("replicas", gateways, number, share * LLM_SECONDS, image)
                self._tile(ENCODER_SECONDS)
                self._step(ENCODER_SECONDS)
                setup = Setup(
                    *("both", encoders[:number], gateways, number, ENCODER_SECONDS, RATIOS[0]),
                    *(NEW_TOKENS, image.tokens.num_bytes),
                )
                callers = (_CALLERS_PER_ENCODER + _CALLERS_PER_REPLICA) * number
                yield self._measure(setup, lambda questions: questions.generate, callers)

    def _gateway(self, images: dict[float, EncodedImage]) -> Iterator[Point]:
        """One gateway whose devices take no time, with uploads of each size; then with long answers."""
        kinds = (
            ("gateway, local", 1, self._machine.local_gateway(max_running=_CALLERS_OF_GATEWAY)),
            ("gateway, Ray", 2, self._machine.gateways(1, replicas=2, max_running=_CALLERS_OF_GATEWAY)),
        )
        for name, replicas, gateway in kinds:
            with gateway as services:
                for ratio, tokens in [*((ratio, 1) for ratio in images), (RATIOS[0], LONG_ANSWER)]:
                    self._machine.step.set(0.0 if tokens == 1 else LONG_STEP_SECONDS)
                    size, profiled = images[ratio].tokens.num_bytes, replicas > 1
                    setup = Setup(name, (), services, replicas, 0.0, ratio, tokens, size, profiled)
                    yield self._measure(setup, _answering(images[ratio]), _CALLERS_OF_GATEWAY)

    def _gateways(self, image: EncodedImage) -> Iterator[Point]:
        """The same replicas behind 1, 2 and 4 gateways, with device time and without."""
        most = self._effort.sizes[-1]
        for number in self._effort.sizes[:-1]:
            with self._machine.gateways(number, replicas=most // number) as gateways:
                for seconds in (LLM_SECONDS, 0.0):
                    yield self._answer("gateways", gateways, most, seconds, image)

    def _answer(
        self, experiment: str, gateways: Sequence[Service], replicas: int, seconds: float, image: EncodedImage
    ) -> Point:
        self._step(seconds)
        size = image.tokens.num_bytes
        setup = Setup(experiment, (), gateways, replicas, seconds, RATIOS[0], NEW_TOKENS, size, profiled=not seconds)
        return self._measure(setup, _answering(image), _CALLERS_PER_REPLICA * replicas)

    def _tile(self, image_seconds: float) -> None:
        """Set how long an image takes an encoder."""
        self._machine.tile.set(image_seconds / TILES)

    def _step(self, answer_seconds: float) -> None:
        """Set how long an answer takes a replica, of which it has `MAX_RUNNING` at a time."""
        self._machine.step.set(answer_seconds * MAX_RUNNING / NEW_TOKENS)

    def _measure(self, setup: Setup, ask: Callable[[Questions], Ask], callers: int) -> Point:
        return asyncio.run(measure(self._machine, self._effort, setup, ask, callers=callers))


def _answering(image: EncodedImage) -> Callable[[Questions], Ask]:
    return lambda questions: questions.answer(image)
