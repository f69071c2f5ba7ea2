"""Vision towers and engines that take a device's time without a device: they sleep.

Everything around them is real: the services, their sockets, Ray Serve, batching, admission and the choice of tokens.
"""

import asyncio
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from transformers import LlavaNextConfig
from visionsplit.errors import OverloadedError, UnavailableError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.tower_outputs import TileFeatures, TowerOutput

from llm_service.config import EngineConfig
from llm_service.engines.base import EngineRequest, MainEngine
from llm_service.engines.token_buffer import TokenBuffer
from llm_service.job import EngineUse, TokenEvent
from llm_service.replica.engines import Engines

_TOKEN = 350  # a letter of the tokenizer of `tests.checkpoints`


@dataclass(frozen=True)
class DeviceTime:
    """Seconds in a file, which all simulated devices of a benchmark read: they change without a restart."""

    file: Path

    def set(self, seconds: float) -> None:
        self.file.with_suffix(".new").write_bytes(struct.pack("d", seconds))
        self.file.with_suffix(".new").rename(self.file)  # a reader never sees half of it

    def sleep(self, times: int = 1) -> None:
        """Take the device for `times` as long as the file says."""
        (seconds,) = struct.unpack("d", self.file.read_bytes())
        time.sleep(times * seconds)


@dataclass(frozen=True)
class SimulatedTowers:
    """Loads simulated towers. In place of `load_half` of the encoder's server."""

    tile: DeviceTime  # of a tile

    def __call__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> VisionTower:
        return SimulatedTower(checkpoint.config, self.tile, dtype=dtype, device=device)


class SimulatedTower(VisionTower):
    """Sleeps, then returns the same random features for all tiles. Its weights are never used."""

    def __init__(self, config: LlavaNextConfig, tile: DeviceTime, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(config, dtype=dtype, device=device)
        self._tile = tile
        cells = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        generator = torch.Generator(device).manual_seed(0)
        self._features = torch.randn(1, cells, self.feature_size, generator=generator, dtype=dtype, device=device)
        self._logits = torch.randn(1, cells, generator=generator, device=device)

    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        """As `VisionTower.forward`, for methods that read nothing but the salience."""
        if unknown := wanted - {TowerOutput.SALIENCE}:
            raise ValueError(f"a simulated tower has no {', '.join(output.name for output in unknown)}")
        batch = len(tiles)
        self._tile.sleep(batch)
        features = self._features.expand(batch, -1, -1)  # [B, P, Dv]
        return TileFeatures(features, {output: self._logits.expand(batch, -1) for output in wanted})  # [B, P]


@dataclass(frozen=True)
class SimulatedEngines:
    """Makes simulated engines. In place of `make_engines`."""

    step: DeviceTime  # of a step, however many requests it has

    def __call__(
        self, checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype
    ) -> Engines:
        context_length = checkpoint.config.text_config.max_position_embeddings
        return Engines(SimulatedEngine(self.step, config, context_length), None)


@dataclass(eq=False)
class _Running:
    """A request in the engine."""

    left: int  # tokens
    arrived: float  # seconds of time.monotonic
    loop: asyncio.AbstractEventLoop
    buffer: TokenBuffer = field(default_factory=TokenBuffer)
    queue_seconds: float = 0.0


class SimulatedEngine(MainEngine):
    """Continuous batching on a thread that sleeps: each step gives every running request a token."""

    name = "simulated"

    def __init__(self, step: DeviceTime, config: EngineConfig, context_length: int) -> None:
        self._step = step
        self._config = config
        self._context_length = context_length
        self._changed = threading.Condition()
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="simulated-device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def healthy(self) -> bool:
        return not self._stopping

    @property
    def use(self) -> EngineUse:
        return EngineUse(0, 1, len(self._running) / self._config.max_running)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        one = _Running(request.sampling.max_new_tokens, time.monotonic(), asyncio.get_running_loop())
        with self._changed:
            if len(self._waiting) >= self._config.max_waiting:
                raise OverloadedError("too many requests wait", 1.0)
            self._waiting.append(one)
            self._changed.notify()
        try:
            async for event in one.buffer.events(request.pause_seconds):
                yield event
        finally:
            with self._changed:
                for requests in (self._waiting, self._running):
                    if one in requests:
                        requests.remove(one)

    def _run(self) -> None:
        while self._admit():
            self._step.sleep()
            self._deliver()

    def _admit(self) -> bool:
        """Wait for work and let waiting requests in. Returns whether there is any: the engine may be stopping."""
        with self._changed:
            while not (self._waiting or self._running or self._stopping):
                self._changed.wait()
            if self._stopping:
                for one in (*self._running, *self._waiting):
                    one.loop.call_soon_threadsafe(one.buffer.put, UnavailableError("the engine is stopping"))
                return False
            while self._waiting and len(self._running) < self._config.max_running:
                one = self._waiting.popleft()
                one.queue_seconds = time.monotonic() - one.arrived
                self._running.append(one)
            return True

    def _deliver(self) -> None:
        """Give every running request its next token."""
        with self._changed:
            running = list(self._running)
            for one in running:
                one.left -= 1
            self._running = [one for one in running if one.left]
        for one in running:
            event = TokenEvent((_TOKEN,), not one.left, one.queue_seconds)
            one.loop.call_soon_threadsafe(partial(one.buffer.put, event))
