"""Tokens chosen by the prompt, through both services: the question decides what the language model sees."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from visionsplit.errors import InvalidCompressionError
from visionsplit_client import Compression, EncodedImage, Prompt, Pruning, Sampling

from tests.clip_checkpoints import llava_and_clip
from tests.integration.system import System, running_system
from tests.noise import noise_image

SIX = Sampling(max_new_tokens=6)
QUESTIONS = ["Is it red?", "How many small green cubes are behind the ball, and which of them is nearest?"]
PICTURE = noise_image(112, 90)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    llava, clip = llava_and_clip(tmp_path_factory.mktemp("clip"), seed=11)
    async with running_system(llava, encoder={"text_tower": str(clip)}) as running:
        yield running


def cdpruner(guidance: str | None = None, ratio: float = 0.3) -> Compression:
    return Compression("cdpruner", ratio, guidance=guidance)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_answer_rests_on_the_tokens_that_the_question_chose(system: System, question: str) -> None:
    tokens = await system.client.encode(PICTURE, cdpruner(question))
    expected = await system.client.generate_from_tokens(tokens, question, sampling=SIX)
    answer = await system.client.generate(PICTURE, question, compression=cdpruner(), sampling=SIX)
    assert answer.token_ids == expected.token_ids
    assert answer.images[0].budgets == tokens.tokens.budgets


async def test_the_question_decides_and_guidance_decides_instead_of_it(system: System) -> None:
    asked = {"sampling": SIX, "compression": cdpruner()}
    one, other = [await system.client.encode(PICTURE, cdpruner(question)) for question in QUESTIONS]
    assert not np.array_equal(one.tokens.positions, other.tokens.positions)
    own = await system.client.generate(PICTURE, QUESTIONS[0], **asked)
    guided = await system.client.generate(PICTURE, QUESTIONS[0], sampling=SIX, compression=cdpruner(QUESTIONS[1]))
    stored = await system.client.generate_from_tokens(other, QUESTIONS[0], sampling=SIX)
    assert guided.token_ids == stored.token_ids
    assert own.token_ids != guided.token_ids


async def test_a_finished_prompt_is_read_without_its_placeholders(system: System) -> None:
    prompt = Prompt.raw("USER: <image> Is it red? ASSISTANT:")
    tokens = await system.client.encode(PICTURE, cdpruner("USER:   Is it red? ASSISTANT:"))
    expected = await system.client.generate_from_tokens(tokens, prompt, sampling=SIX)
    answer = await system.client.generate(PICTURE, prompt, compression=cdpruner(), sampling=SIX)
    assert answer.token_ids == expected.token_ids


async def test_pruning_in_the_language_model_may_follow(system: System) -> None:
    answer = await system.client.generate(
        PICTURE, QUESTIONS[0], compression=cdpruner(), pruning=Pruning("fastv", 0.5, {"layer": 1}), sampling=SIX
    )
    assert answer.layer_tokens[1] < answer.layer_tokens[0]


async def test_a_question_without_images(system: System) -> None:
    plain = await system.client.generate([], "Hello?", sampling=SIX)
    asked = await system.client.generate([], "Hello?", compression=cdpruner(), sampling=SIX)
    assert asked.token_ids == plain.token_ids


async def test_stored_tokens_remember_their_guidance(system: System, tmp_path: Path) -> None:
    (await system.client.encode(PICTURE, cdpruner("Is it red?"))).save(tmp_path / "tokens.safetensors")
    assert EncodedImage.load(tmp_path / "tokens.safetensors").compression == cdpruner("Is it red?")


@pytest.mark.parametrize(
    ("compression", "words"),
    [
        (cdpruner(), "encoding alone has no prompt; it needs guidance"),
        (cdpruner(""), "guidance is empty"),
        (Compression("globalcom2", 0.3, guidance="a cat"), "looks at no text"),
    ],
)
async def test_what_is_refused(system: System, compression: Compression, words: str) -> None:
    with pytest.raises(InvalidCompressionError, match=words):
        await system.client.encode(PICTURE, compression)


async def test_it_is_offered(system: System) -> None:
    info = await system.client.encoder_info()
    assert "cdpruner" in [method.name for method in info.methods]
