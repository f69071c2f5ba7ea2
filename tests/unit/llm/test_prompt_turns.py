"""The order in which prompts are tokenised."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid

from llm_service.prompts.length_limit import PromptSize
from llm_service.prompts.prompt import Prompt, PromptEncoder, TextPrompt
from llm_service.prompts.token_lower_bound import FewestTokens
from llm_service.prompts.turns import PromptTurns

SHORT, LONG = TextPrompt("Hi"), TextPrompt("Hi, there. " * 1000)


class HeldUp(PromptEncoder):
    """Begins to encode only when it may, and remembers in which order and how many at once."""

    may_go_on = threading.Event()

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        self.begun: list[Prompt] = []
        self.at_once = self.most_at_once = 0

    def encode(self, prompt: Prompt, grids: Sequence[TileGrid], *, max_tokens: int) -> tuple[int, ...]:
        self.begun.append(prompt)
        if prompt is not SHORT:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            assert self.may_go_on.wait(10)
            self.at_once -= 1
        return super().encode(prompt, grids, max_tokens=max_tokens)


@pytest.fixture
def held_up(random_checkpoints) -> HeldUp:
    encoder = HeldUp(Checkpoint(str(random_checkpoints["llama"])))
    encoder.may_go_on = threading.Event()
    return encoder


def turns_of(encoder: HeldUp) -> PromptTurns:
    size = PromptSize(FewestTokens(encoder.tokenizer), context_length=20_000, max_characters=1_000_000)
    return PromptTurns(encoder, size)


async def test_short_prompts_pass_long_ones_of_any_caller(held_up: HeldUp):
    turns = turns_of(held_up)
    long = [asyncio.create_task(turns.encode(LONG, (), "heavy")) for _ in range(5)]
    async with asyncio.timeout(5):
        for caller in ("heavy", "light"):
            assert await turns.encode(SHORT, (), caller)
    assert not any(task.done() for task in long)
    held_up.may_go_on.set()
    await asyncio.gather(*long)
    assert held_up.most_at_once == 1


async def test_callers_take_turns(held_up: HeldUp):
    turns, other = turns_of(held_up), TextPrompt(LONG.text + "!")
    heavy = [asyncio.create_task(turns.encode(LONG, (), "heavy")) for _ in range(4)]
    await asyncio.sleep(0)
    light = asyncio.create_task(turns.encode(other, (), "light"))
    await asyncio.sleep(0)
    held_up.may_go_on.set()
    await asyncio.gather(*heavy, light)
    assert held_up.begun.index(other) <= 2


async def test_calls_that_are_given_up_pile_up_no_threads(held_up: HeldUp):
    turns = turns_of(held_up)
    for _ in range(20):
        task = asyncio.create_task(turns.encode(LONG, (), "hasty"))
        await asyncio.sleep(0.01)
        task.cancel()
    assert len(held_up.begun) == 1
    held_up.may_go_on.set()
    async with asyncio.timeout(5):
        assert await turns.encode(LONG, (), "patient")
    assert len(held_up.begun) == 2
