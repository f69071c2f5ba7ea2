"""Runs both services during hostile requests, and compares their state before and after."""

import gc
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from visionsplit.images import ImageLimits
from visionsplit_client import Compression, HealthStatus, Sampling

from llm_service.config import Limits
from tests.fuzzing.campaign import Sound, campaign
from tests.fuzzing.images import MAX_PIXELS
from tests.integration.system import System, running_system
from tests.noise import noise_image

MAX_GROWTH_BYTES = 256 * 2**20  # from the first third of the requests to the end; both services and their caller
_WARM_SHARE = 3  # caches and pools fill while the first third of the requests is sent


@dataclass(frozen=True)
class Report:
    codes: Counter[str]
    faults: list[str]  # sentences; none if all is well
    grown_bytes: int


async def check(checkpoint: Path, *, seed: int, numbers: Sequence[int]) -> Report:
    """Start the services, ask, send the requests of these numbers, ask again."""
    process = psutil.Process()
    async with running_system(
        checkpoint,
        encoder={"image": ImageLimits(max_pixels=MAX_PIXELS)},
        llm={"limits": Limits(default_max_new_tokens=4)},
    ) as system:
        before = await _answer(system)
        sound = await Sound.of(system.client)
        split = len(numbers) // _WARM_SHARE
        codes, wrong = await campaign(seed, numbers[:split], sound, system.encoder_address, system.llm_address)
        warm = _resident(process)
        more = await campaign(seed, numbers[split:], sound, system.encoder_address, system.llm_address)
        grown = _resident(process) - warm
        after = await _answer(system)
        health = await system.client.health()
    faults = [
        f"request {end.case.number} of seed {seed} ({end.case.kind}, {end.case.method}) ended with {end.code.name}: "
        f"{end.details!r} (--seed {seed} --only {end.case.number})"
        for end in wrong + more[1]
    ]
    faults += [
        f"{address} is {status.value}" for address, status in health.items() if status is not HealthStatus.SERVING
    ]
    if after != before:
        faults.append(f"the answer was {before} and is now {after}")
    if grown > MAX_GROWTH_BYTES:
        faults.append(f"memory grew by {grown / 2**20:.0f} MiB")
    return Report(codes + more[0], faults, grown)


async def _answer(system: System) -> tuple[int, ...]:
    image, asked = noise_image(120, 70), Compression("globalcom2", 0.5)
    answer = await system.client.generate(image, "What?", compression=asked, sampling=Sampling(max_new_tokens=8))
    return answer.token_ids


def _resident(process: psutil.Process) -> int:
    gc.collect()
    return int(process.memory_info().rss)
