"""`python -m tests.shared_images --calls 2000`: calls that share images get the answers of images encoded alone.

Random `Generate` calls with one to four images out of a small set, many at a time, with methods and ratios mixed. They
go to a service without a cache and to services with caches so small that entries come and go, with batches small enough
that the images of one request become ready in any order, and with calls that are given up midway. Each answer must
equal the answer about the tokens of the same images, each encoded alone. Exit code 1 if one differs or is refused.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from visionsplit_client import Compression, EncodedImage, Generation, ImageSource, Prompt, Sampling, Usage

from encoder_service.compression import METHODS
from encoder_service.config import BatchLimits, CacheLimits
from tests.checkpoints import tiny_checkpoint
from tests.integration.system import System, running_system
from tests.noise import noise_image

_SIZES = [(112, 112), (56, 168), (300, 90), (97, 113), (40, 40), (112, 50), (64, 130)]
_RATIOS = [1.0, 0.5, 0.25, 0.1]
_IMAGES = [noise_image(*size, seed=seed) for seed, size in enumerate(_SIZES)]
_METHODS = sorted(name for name in METHODS if name not in ("none", "cdpruner"))  # that one needs a text tower
_SHORT = Sampling(max_new_tokens=6)
_AT_ONCE = 16
_GIVEN_UP = 0.05  # the share of calls that are cancelled midway, so that others take over what they began


@dataclass(frozen=True)
class Request:
    """One call, by numbers, so that it can be a key."""

    images: tuple[int, ...]
    method: str
    ratio: float
    data_type: str

    @property
    def prompt(self) -> Prompt:
        return Prompt.raw("USER: " + "<image>\n" * len(self.images) + "What? ASSISTANT:")

    @property
    def encoding(self) -> dict[str, Any]:
        return {"compression": Compression(self.method, self.ratio), "data_type": self.data_type}

    async def ask(self, system: System) -> Generation:
        images: list[ImageSource] = [_IMAGES[index] for index in self.images]
        return await system.client.generate(images, self.prompt, sampling=_SHORT, **self.encoding)

    async def ask_alone(self, system: System, encoded: dict["Request", EncodedImage]) -> "Answer":
        """The answer about images that were each encoded alone, which `encoded` keeps."""
        tokens = []
        for index in self.images:
            alone = replace(self, images=(index,))
            if alone not in encoded:
                encoded[alone] = await system.client.encode(_IMAGES[index], **self.encoding)
            tokens.append(encoded[alone])
        answer = await system.client.generate_from_tokens(tokens, self.prompt, sampling=_SHORT)
        return Answer(answer.token_ids, answer.usage, tuple(image.tokens.budgets for image in tokens))


@dataclass(frozen=True)
class Answer:
    """What of an answer must be right."""

    token_ids: tuple[int, ...]
    usage: Usage
    budgets: tuple[tuple[int, ...], ...]  # of each image, tokens kept of each tile

    @classmethod
    def of(cls, generation: Generation) -> "Answer":
        return cls(generation.token_ids, generation.usage, tuple(image.budgets for image in generation.images))


def draw(generator: random.Random, number: int) -> list[Request]:
    """Requests about few enough images and methods that many share an encoding."""
    images, methods = generator.sample(range(len(_IMAGES)), 5), generator.sample(_METHODS, 3)
    data_type = generator.choice(["float32", "float32", "int8"])
    return [
        Request(
            tuple(generator.choices(images, k=generator.randint(1, 4))),
            generator.choice(methods),
            generator.choice(_RATIOS),
            data_type,
        )
        for _ in range(number)
    ]


def small_caches(folder: Path, generator: random.Random) -> dict[str, Any]:
    """Settings of an encoder whose images become ready in any order."""
    entry_bytes = 20_000  # about one image uncompressed
    cache = CacheLimits(entry_bytes * generator.randint(1, 8), folder, entry_bytes * generator.randint(2, 20))
    batch = BatchLimits(max_batch_tiles=generator.choice([1, 3, 16]), max_wait_seconds=0.002, max_queued_tiles=1024)
    return {"cache": cache, "batch": batch}


class Outcomes:
    """What was asked and what came of it."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.cache: Counter[str] = Counter()
        self.answered = 0
        self.given_up = 0

    def compare(self, request: Request, answer: Generation, expected: Answer) -> None:
        self.answered += 1
        self.cache.update(image.cache for image in answer.images)
        if (got := Answer.of(answer)) != expected:
            self.faults.append(f"{request}: {got}; with each image encoded alone: {expected}")


async def run(checkpoint: Path, folder: Path, *, calls: int, rounds: int, seed: int) -> Outcomes:
    """Ask `calls` random requests twice: of a service without a cache, and of one with other caches in each round."""
    generator = random.Random(seed)
    outcomes, encoded = Outcomes(), dict[Request, EncodedImage]()
    async with running_system(checkpoint, encoder={"cache": CacheLimits(memory_bytes=0)}) as plain:
        for number in range(rounds):
            requests = draw(generator, calls // rounds)
            expected = {request: await request.ask_alone(plain, encoded) for request in dict.fromkeys(requests)}
            await _ask_all(plain, requests, expected, outcomes, [None] * len(requests))
            patience = [generator.random() * 0.2 if generator.random() < _GIVEN_UP else None for _ in requests]
            settings = small_caches(folder / str(number), generator)
            async with running_system(checkpoint, encoder=settings) as system:
                await _ask_all(system, requests, expected, outcomes, patience)
    return outcomes


async def _ask_all(
    system: System,
    requests: list[Request],
    expected: dict[Request, Answer],
    outcomes: Outcomes,
    patience: list[float | None],  # seconds after which a call is given up
) -> None:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(request: Request, patience: float | None) -> None:
        async with places:
            try:
                async with asyncio.timeout(patience):
                    answer = await request.ask(system)
            except TimeoutError:
                outcomes.given_up += 1
                return
            except Exception as error:  # whatever it is, it is the fault that this program looks for
                outcomes.faults.append(f"{request}: {type(error).__name__}: {error}")
                return
        outcomes.compare(request, answer, expected[request])

    await asyncio.gather(*map(one, requests, patience))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.shared_images", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--calls", type=int, default=2000, help="calls to make of each service (default: 2000)")
    parser.add_argument("--rounds", type=int, default=20, help="settings of the caches to try (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="where the random draws begin (default: 0)")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder) / "checkpoint")
        outcomes = asyncio.run(
            run(checkpoint, Path(folder), calls=options.calls, rounds=options.rounds, seed=options.seed)
        )
    for fault in outcomes.faults[:20]:
        print(fault)
    uses = ", ".join(f"{use} {count}" for use, count in sorted(outcomes.cache.items()))
    print(
        f"{outcomes.answered} answers, {outcomes.given_up} calls given up, {len(outcomes.faults)} faults; images by "
        f"cache: {uses}; {time.monotonic() - started:.0f} s"
    )
    return 1 if outcomes.faults else 0


if __name__ == "__main__":
    sys.exit(main())
