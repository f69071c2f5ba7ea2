"""Requests with several images: the images become ready in any order, and each answer is still right."""

import io
from pathlib import Path

import pytest
from PIL import Image
from visionsplit_client import Compression, Prompt, Sampling

from tests import shared_images
from tests.integration.system import WholeModel, running_system
from tests.noise import noise_image

PROMPT = "USER: <image>\n<image>\nand <image> differ how? ASSISTANT:"
SAMPLING = Sampling(max_new_tokens=8)


@pytest.mark.parametrize("ready", [[1], [2], [1, 2], [0, 2]], ids=str)
async def test_images_that_are_cached_before_the_others(random_checkpoints: dict[str, Path], ready: list[int]) -> None:
    """With the services' default settings, and equal to the whole model."""
    images = [noise_image(*size, seed=index) for index, size in enumerate([(112, 112), (300, 90), (60, 200)])]
    whole = WholeModel(random_checkpoints["llama"]).generate(images, PROMPT, 8)
    none = Compression("none")
    async with running_system(random_checkpoints["llama"]) as system:
        for index in ready:
            await system.client.generate(images[index], Prompt.raw("<image>"), compression=none, sampling=SAMPLING)
        answer = await system.client.generate(images, Prompt.raw(PROMPT), compression=none, sampling=SAMPLING)
    assert answer.token_ids == whole
    assert [image.index for image in answer.images] == [0, 1, 2]
    assert [image.cache == "memory" for image in answer.images] == [index in ready for index in range(3)]


async def test_the_shipped_model_answers_about_two_images_in_either_order(shipped_checkpoint: Path) -> None:
    """The second image is asked about first, as a chat that goes on to a second image would."""
    samples = shipped_checkpoint.parent / "samples"
    question = "Which image has a sign?"
    async with running_system(shipped_checkpoint) as system:
        options = {"compression": Compression("none"), "sampling": Sampling(max_new_tokens=12)}
        await system.client.generate(samples / "shapes.png", question, **options)
        answer = await system.client.generate([samples / "office.png", samples / "shapes.png"], question, **options)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": question}]
    pictures = [Image.open(io.BytesIO((samples / name).read_bytes())) for name in ("office.png", "shapes.png")]
    messages = [{"role": "user", "content": content}]
    assert answer.token_ids == WholeModel(shipped_checkpoint).chat(pictures, messages, 12)


async def test_random_calls_that_share_images(random_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """`python -m tests.shared_images` does the same for thousands of calls."""
    outcomes = await shared_images.run(random_checkpoints["llama"], tmp_path, calls=90, rounds=3, seed=1)
    assert outcomes.faults == []
    assert outcomes.answered + outcomes.given_up == 2 * 90
    assert outcomes.answered > 150
    # Otherwise nothing was shared, and the comparison says nothing.
    assert all(outcomes.cache[use] > 10 for use in ("off", "miss", "memory"))
