"""The encoder's stages without the service, in a separate process with the settings of the encoder's process.

    python -m benchmarks.encoder_overhead.bare --model FOLDER --images FOLDER [--callers 16]

For every line on stdin it measures once, and prints one JSON document in one line. Tiles are put together by the
encoder's own queue, with as many images in it as there are callers.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.encoder_half import EncoderHalf
from visionsplit.grid import UnpadRule
from visionsplit.images import ImageLimits, decode_image
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.wire.vision_tokens import split_into_chunks

from benchmarks.encoder_overhead.served import CONDITIONS, read
from encoder_service.compression import TileFeatures, TowerOutput, compose
from encoder_service.config import BatchLimits, EncoderConfig
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodedTiles, EncodeRequest, PreparedImage, TileSpan
from encoder_service.device.tile_queue import QueuedImage, TileQueue

_T = TypeVar("_T")


@dataclass(frozen=True)
class Bare:
    """One measurement: the tower and its limits in tiles per second, and CPU seconds per image by stage."""

    threads: int  # of PyTorch
    tower: float  # tiles per second of the tower alone
    prepared_tower: float  # the same with the time in which all cores decode and cut the images
    preparation: dict[str, float]  # CPU seconds of one image
    encoding: dict[str, dict[str, float]] = field(default_factory=dict)  # the same by condition


class Stages:
    """The parts of the encoder, loaded as the service loads them."""

    def __init__(self, model: Path, images: Path, callers: int) -> None:
        checkpoint = Checkpoint(str(model))
        self._tiler = checkpoint.family.tiler(checkpoint)
        self._tower = checkpoint.family.encoder_half(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
        self._files = read(images)
        self._callers = callers

    def measure(self) -> Bare:
        """Measure every stage once on all images."""
        decode, decoded = _cpu_seconds(lambda: [decode_image(data, ImageLimits()) for data in self._files])
        cut, tiled = _cpu_seconds(lambda: [self._tiler.cut(image, UnpadRule.HUGGING_FACE) for image in decoded])
        images, number = [PreparedImage(tiles.pixels, tiles.grid) for tiles in tiled], len(self._files)
        tiles = sum(image.grid.num_tiles for image in images)
        started = time.perf_counter()
        tower, _ = _cpu_seconds(lambda: self._run_tower(images))
        tower_seconds = time.perf_counter() - started
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            started = time.perf_counter()
            list(pool.map(self._prepare, self._files))
            prepare_seconds = time.perf_counter() - started
        return Bare(
            torch.get_num_threads(),
            tiles / tower_seconds,
            tiles / (tower_seconds + prepare_seconds),
            {"decode": decode / number, "resize and cut": cut / number, "tower": tower / number},
            {condition.name: self._encode(images, condition.compression) for condition in CONDITIONS},
        )

    def _prepare(self, data: bytes) -> None:
        self._tiler.cut(decode_image(data, ImageLimits()), UnpadRule.HUGGING_FACE)

    def _run_tower(self, images: list[PreparedImage]) -> None:
        for spans in self._batches(images, Compression("none")):
            self._tower(_pixels(spans), frozenset())

    def _encode(self, images: list[PreparedImage], compression: Compression) -> dict[str, float]:
        """CPU seconds of an image from the tower's output to serialised messages."""
        needs = compose(compression).needs
        batches = list(self._batches(images, compression))
        encoder = BatchEncoder(_Replayed(self._tower, [_pixels(spans) for spans in batches], needs))
        chosen, results = _cpu_seconds(lambda: [result for spans in batches for result in encoder.encode(spans)])
        messages, _ = _cpu_seconds(lambda: [_serialised(result) for result in results])
        return {"selection and packing": chosen / len(images), "messages": messages / len(images)}

    def _batches(self, images: list[PreparedImage], compression: Compression) -> Iterator[list[TileSpan]]:
        """The batches of a queue in which as many images wait as there are callers."""
        composition, left = compose(compression), iter(images)
        queue = TileQueue(BatchLimits())
        waiting: list[QueuedImage] = []
        while True:
            more = list(islice(left, self._callers - len(waiting)))
            added = [QueuedImage(EncodeRequest(image, composition, DataType.FLOAT32), _ignore) for image in more]
            queue.put(added)
            waiting += added
            if not waiting:
                return
            yield list(queue.take().values())
            waiting = [image for image in waiting if image.tiles_left]


class _Replayed(EncoderHalf):
    """A vision tower that has done its work before, so that what comes after it can be measured."""

    def __init__(self, tower: EncoderHalf, batches: Sequence[torch.Tensor], needs: frozenset[TowerOutput]) -> None:
        super().__init__()
        self.device = tower.device
        self.outputs = tower.outputs
        self._results: Iterator[TileFeatures] = iter([tower(pixels, needs) for pixels in batches])

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    def forward(self, tiles: torch.Tensor, wanted: frozenset[TowerOutput]) -> TileFeatures:
        return next(self._results)


def _pixels(spans: Sequence[TileSpan]) -> torch.Tensor:
    return torch.cat([span.encoding.request.image.pixels[span.first : span.stop] for span in spans])


def _ignore(result: object) -> None:
    """Results are not delivered."""


def _serialised(result: object) -> int:
    assert isinstance(result, EncodedTiles)
    chunks = split_into_chunks(
        result.features, result.positions, image_index=0, first_chunk=0, chunk_bytes=EncoderConfig.chunk_bytes
    )
    return sum(len(chunk.SerializeToString()) for chunk in chunks)


def _cpu_seconds(work: Callable[[], _T]) -> tuple[float, _T]:
    """The CPU time of all threads, and the result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encoder_overhead.bare", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--callers", type=int, default=16)
    options = parser.parse_args(arguments)
    stages = Stages(options.model, options.images, options.callers)
    stages.measure()  # loads kernels and fills caches
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(stages.measure())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
