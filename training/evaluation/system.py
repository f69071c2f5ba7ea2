"""Answers from a running system, asked through the client like any application."""

import asyncio
import io
from collections.abc import Callable, Sequence

from visionsplit_client import AsyncClient, Compression, EncoderInfo, Generation, Sampling

from training.dialogue.held_out import Example
from training.dialogue.questions import Question
from training.evaluation.conditions import THUMBNAIL, Condition
from training.evaluation.results import Answer, Seen
from training.scenes.render import render


class RunningSystem:
    """An encoder service with an LLM service behind it."""

    def __init__(self, client: AsyncClient, *, calls: int, max_new_tokens: int) -> None:
        """`calls` questions are asked concurrently."""
        self._client = client
        self._calls = calls
        self._sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)

    async def info(self) -> EncoderInfo:
        return await self._client.encoder_info()

    async def answers(
        self, examples: Sequence[Example], conditions: Sequence[Condition], progress: Callable[[int], object]
    ) -> list[Answer]:
        """Ask every question under every condition; `progress` receives the number of answered questions.

        Raises:
            ValueError: a condition that no request can ask for.
            VisionSplitError: a call failed.
        """
        asked = [(condition, _compression(condition)) for condition in conditions]
        room = asyncio.Semaphore(self._calls)
        results: list[Answer] = []

        async def ask(
            example: Example, png: bytes, question: Question, condition: Condition, compression: Compression
        ) -> None:
            try:
                generation = await self._client.generate(
                    png,
                    question.text,
                    compression=compression,
                    sampling=self._sampling,
                    pruning=condition.pruning,
                    position_ids=condition.position_ids,
                )
            finally:
                room.release()
            results.append(Answer.scored(condition.name, example, question, _seen(generation), generation.text))
            progress(1)

        try:
            async with asyncio.TaskGroup() as tasks:
                for example in examples:
                    png = await asyncio.to_thread(_png, example)
                    for condition, compression in asked:
                        for question in example.questions:
                            await room.acquire()
                            tasks.create_task(ask(example, png, question, condition, compression))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return results


def _compression(condition: Condition) -> Compression:
    spec = condition.spec
    if spec is None:
        raise ValueError(f"a running system cannot be asked for {THUMBNAIL!r}; score the model in process")
    return spec


def _seen(generation: Generation) -> Seen:
    grid, usage = generation.images[0].grid, generation.usage
    tokens = usage.vision_tokens + usage.newline_tokens
    layers = generation.layer_tokens or [usage.prompt_tokens]
    return Seen((grid.rows, grid.columns), tokens, sum(layers) / len(layers) - usage.text_tokens)


def _png(example: Example) -> bytes:
    buffer = io.BytesIO()
    render(example.scene).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
