"""The transformers library's `generate` in a separate process, as a loop that takes what waits, up to a batch.

    python -m benchmarks.peers.generate_loop --model FOLDER --new-tokens N

The process reads one batch as a line of JSON and writes the answers as another. Nothing joins a batch that has begun.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.batch.loop import Loop
from benchmarks.peers.inputs import Request
from benchmarks.peers.results import Sample

_LINE_BYTES = 2**30  # a batch of images is one line
_STOP_SECONDS = 30.0


@dataclass
class GenerateLoop:
    """The loop's end in the callers' process."""

    process: asyncio.subprocess.Process
    batch: int  # the most images in one
    start_seconds: float
    _waiting: asyncio.Queue[tuple[Request, float, asyncio.Future[Sample]]] = field(default_factory=asyncio.Queue)

    @property
    def pid(self) -> int:
        return self.process.pid

    @classmethod
    @asynccontextmanager
    async def started(
        cls, model: Path, environment: Mapping[str, str], *, new_tokens: int, batch: int
    ) -> AsyncIterator["GenerateLoop"]:
        """Start the process and end it.

        Raises:
            RuntimeError: the model could not be loaded.
        """
        command = ["-m", "benchmarks.peers.generate_loop", "--model", str(model), "--new-tokens", str(new_tokens)]
        began, pipe = time.monotonic(), asyncio.subprocess.PIPE
        variables = {**os.environ, **environment}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=pipe, stdout=pipe, env=variables, limit=_LINE_BYTES
        )
        try:
            assert process.stdout is not None
            if not await process.stdout.readline():
                raise RuntimeError("the generate loop did not start")
            loop = cls(process, batch, time.monotonic() - began)
            work = asyncio.create_task(loop._work())
            yield loop
            work.cancel()
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)

    async def ask(self, request: Request) -> Sample:
        """The answer to one question, after those that were asked before."""
        answer: asyncio.Future[Sample] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, time.monotonic(), answer))
        return await answer

    async def _work(self) -> None:
        while True:
            asked = [await self._waiting.get()]
            while len(asked) < self.batch and not self._waiting.empty():
                asked.append(self._waiting.get_nowait())
            asked = [one for one in asked if not one[2].cancelled()]  # whose callers still wait
            if not asked:
                continue
            answers = await self._answers([request for request, _, _ in asked])
            for (_, started, answer), plain in zip(asked, answers, strict=True):
                if not answer.cancelled():
                    tokens = tuple(moment - started for moment in plain["moments"])
                    seconds = time.monotonic() - started
                    ids = tuple(plain["ids"])
                    answer.set_result(Sample(tokens, seconds, plain["text"], ids, plain["prompt_tokens"]))

    async def _answers(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        batch = [(base64.b64encode(one.image).decode(), one.prompt) for one in requests]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(batch).encode() + b"\n")
        await self.process.stdin.drain()
        answers: list[dict[str, Any]] = json.loads(await self.process.stdout.readline())
        return answers


class _Moments:
    """A streamer of the transformers library that notes when each step of a batch had its tokens."""

    def __init__(self) -> None:
        self.moments: list[float] = []  # the prompt's first

    def put(self, value: torch.Tensor) -> None:
        # Linux's monotonic clock is the same in all processes.
        self.moments.append(time.monotonic())

    def end(self) -> None:
        """Nothing remains to be done."""


def _answer(loop: Loop, batch: Sequence[tuple[str, str]], new_tokens: int) -> list[dict[str, Any]]:
    images = [Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB") for image, _ in batch]
    inputs = loop.prepare(images, [prompt for _, prompt in batch])
    prompts = inputs["attention_mask"].sum(dim=1).tolist()  # tokens of each, without the padding
    steps = _Moments()
    answers = loop.answers(inputs, new_tokens, steps)
    return [
        {"text": loop.text(ids), "ids": ids, "prompt_tokens": length, "moments": steps.moments[1 : 1 + len(ids)]}
        for ids, length in zip(answers, prompts, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.generate_loop", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    options = parser.parse_args()
    loop = Loop(options.model, "", options.new_tokens)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(loop, json.loads(line), options.new_tokens)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
