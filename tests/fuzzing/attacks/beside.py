"""`python -m tests.fuzzing.attacks.beside`: a caller that keeps the rules, and its results, one JSON object per line.

It runs in a separate process, so that the attacker's work does not delay it. It asks both services all the time, each
question again as soon as it was answered, with a pause; a line has the moment (CLOCK_MONOTONIC), the question, the
seconds, and what was wrong.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from visionsplit.errors import VisionSplitError
from visionsplit_client import (
    AsyncClient,
    BearerToken,
    ClientSecurity,
    ClientTls,
    HealthStatus,
    Retries,
    Sampling,
)

from tests.noise import noise_image

QUESTIONS = ("GetEncoderInfo", "GetLlmInfo", "Encode", "Generate", "health")
TIMEOUT_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
_IMAGES = [noise_image(200, 150, seed) for seed in range(3)]


def _questions(client: AsyncClient) -> dict[str, Callable[[int], Awaitable[object]]]:
    async def health(_: int) -> object:
        states = await client.health(timeout=TIMEOUT_SECONDS)
        return sorted(state.value for state in states.values())

    async def encode(number: int) -> object:
        return (await client.encode(_IMAGES[number % len(_IMAGES)])).to_tensors()

    async def generate(number: int) -> object:
        image = _IMAGES[number % len(_IMAGES)]
        return (await client.generate(image, "What is this?", sampling=Sampling(max_new_tokens=8))).token_ids

    async def encoder_info(_: int) -> object:
        return await client.encoder_info()

    async def llm_info(_: int) -> object:
        return await client.llm_info()

    return dict(zip(QUESTIONS, (encoder_info, llm_info, encode, generate, health), strict=True))


async def _ask(name: str, ask: Callable[[int], Awaitable[object]]) -> None:
    known: dict[int, object] = {}
    number = 0
    while True:
        started, fault = time.monotonic(), None
        try:
            answer = await ask(number)
            if known.setdefault(number % len(_IMAGES), answer) != answer:
                fault = "another answer than before"
        except VisionSplitError as error:
            fault = f"{type(error).__name__}: {error}"
        line = {"at": started, "question": name, "seconds": time.monotonic() - started, "fault": fault}
        print(json.dumps(line), flush=True)
        number += 1
        await asyncio.sleep(_PAUSE_SECONDS)


async def _run(options: argparse.Namespace) -> None:
    security = ClientSecurity()
    if options.authority is not None:
        security = ClientSecurity(ClientTls(options.authority), BearerToken(file=options.token_file))
    async with AsyncClient(
        options.encoder,
        llm=options.llm,
        retries=Retries(attempts=1),
        timeout=TIMEOUT_SECONDS,
        security=security,
    ) as client:
        questions = _questions(client)
        serving = [HealthStatus.SERVING.value] * 2
        assert await questions["health"](0) == serving
        await asyncio.gather(*(_ask(name, ask) for name, ask in questions.items()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.attacks.beside", description=__doc__)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--llm", required=True)
    parser.add_argument("--authority", type=Path)
    parser.add_argument("--token-file", type=Path)
    asyncio.run(_run(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
