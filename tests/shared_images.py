"""`python -m tests.shared_images --calls 2000`: calls that share images get the answers that they get without a cache.

Random `Generate` calls with one to four images out of a small set, many at a time, with methods and ratios mixed. The
service under test has caches so small that entries come and go, batches small enough that the images of one request
become ready in any order, and calls that are given up midway. Each answer must equal that of the same request on a
service that keeps nothing. Exit code 1 if one differs or is refused.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from visionsplit_client import Compression, Generation, Prompt, Sampling

from encoder_service.batching import BatchLimits
from encoder_service.caching.tokens import CacheLimits
from encoder_service.compression import METHODS
from tests.checkpoints import tiny_checkpoint
from tests.integration.system import System, noise_image, running_system

_SIZES = [(112, 112), (56, 168), (300, 90), (97, 113), (40, 40), (112, 50), (64, 130)]
_RATIOS = [1.0, 0.5, 0.25, 0.1]
_IMAGES = [noise_image(*size, seed=seed) for seed, size in enumerate(_SIZES)]
_METHODS = sorted(name for name in METHODS if name not in ("none", "cdpruner"))  # that one needs a text tower
_AT_ONCE = 16
_GIVEN_UP = 0.05  # the share of calls that are cancelled midway, so that others take over what they began


@dataclass(frozen=True)
class Request:
    """One call, by numbers, so that it can be a key."""

    images: tuple[int, ...]
    method: str
    ratio: float
    data_type: str

    async def ask(self, system: System) -> Generation:
        images: list[Image.Image] = [_IMAGES[index] for index in self.images]
        return await system.client.generate(
            images,
            Prompt.raw("USER: " + "<image>\n" * len(images) + "What? ASSISTANT:"),
            compression=Compression(self.method, self.ratio),
            data_type=self.data_type,  # type: ignore[arg-type]
            sampling=Sampling(max_new_tokens=6),
        )


def draw(generator: random.Random) -> Request:
    images = tuple(generator.choices(range(len(_IMAGES)), k=generator.randint(1, 4)))
    data_type = generator.choice(["float32", "float32", "int8"])
    return Request(images, generator.choice(_METHODS), generator.choice(_RATIOS), data_type)


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

    def compare(self, request: Request, answer: Generation, expected: Generation) -> None:
        self.answered += 1
        self.cache.update(image.cache for image in answer.images)
        for name, got, right in (
            ("token ids", answer.token_ids, expected.token_ids),
            ("budgets", [image.budgets for image in answer.images], [image.budgets for image in expected.images]),
            ("usage", answer.usage, expected.usage),
        ):
            if got != right:
                self.faults.append(f"{request}: {name} are {got}; without a cache they are {right}")


async def run(checkpoint: Path, folder: Path, *, calls: int, rounds: int, seed: int) -> Outcomes:
    """Ask `calls` random requests, a share of them in each of `rounds` with other settings of the caches."""
    generator = random.Random(seed)
    outcomes, expected = Outcomes(), dict[Request, Generation]()
    async with running_system(checkpoint, encoder={"cache": CacheLimits(memory_bytes=0)}) as plain:
        for number in range(rounds):
            requests = [draw(generator) for _ in range(calls // rounds)]
            for request in dict.fromkeys(requests):
                if request not in expected:
                    expected[request] = await request.ask(plain)
            settings = small_caches(folder / str(number), generator)
            async with running_system(checkpoint, encoder=settings) as system:
                await _ask_all(system, requests, expected, outcomes, generator)
    return outcomes


async def _ask_all(
    system: System,
    requests: list[Request],
    expected: dict[Request, Generation],
    outcomes: Outcomes,
    generator: random.Random,
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

    patience = [generator.random() * 0.2 if generator.random() < _GIVEN_UP else None for _ in requests]
    await asyncio.gather(*map(one, requests, patience))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.shared_images", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--calls", type=int, default=2000, help="calls to make (default: 2000)")
    parser.add_argument("--rounds", type=int, default=8, help="settings of the caches to try (default: 8)")
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
