"""The project's first promise: with compression off, the two services answer exactly as the whole model does."""

from pathlib import Path

import pytest
from PIL import Image
from visionsplit_client import Compression, Prompt, Sampling

from tests.integration.system import WholeModel, running_system
from tests.noise import noise_image

NONE = Compression("none")
PINPOINTS = [(112, 112), (112, 56), (56, 112), (168, 56), (56, 168)]  # width, height
SIZES = [
    *PINPOINTS,
    *[(113, 97), (57, 201), (333, 77), (640, 480), (111, 224), (400, 399)],  # odd
    *[(1000, 5), (5, 1000), (30_000, 20), (20, 30_000), (900, 30)],  # strips
    *[(1, 1), (2, 3), (3, 1), (1, 3), (10, 7)],  # tiny
]
SAMPLING = Sampling(max_new_tokens=16)


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
async def test_every_size_of_image(random_checkpoints: dict[str, Path], text: str) -> None:
    whole = WholeModel(random_checkpoints[text])
    prompt = "USER: <image>\nWas ist das? é😀 ASSISTANT:"
    answers = set()
    async with running_system(random_checkpoints[text]) as system:
        for width, height in SIZES:
            image = noise_image(width, height)
            answer = await system.client.generate(image, Prompt.raw(prompt), compression=NONE, sampling=SAMPLING)
            assert answer.token_ids == whole.generate([image], prompt, 16), f"{width} x {height}"
            answers.add(answer.token_ids)
    assert len(answers) > len(SIZES) // 2  # else the images make no difference, and equality says nothing


@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
async def test_several_images_and_none(random_checkpoints: dict[str, Path], text: str) -> None:
    whole = WholeModel(random_checkpoints[text])
    images = [noise_image(*size, seed=index) for index, size in enumerate([(112, 112), (300, 90), (60, 200)])]
    prompts = [
        (images, "USER: <image>\n<image>\nand <image> differ how? ASSISTANT:"),
        (images[:2], "<image><image>"),
        ([images[1], images[1]], "first <image> then <image> again"),
        ([], "USER: no picture here. ASSISTANT:"),
    ]
    async with running_system(random_checkpoints[text]) as system:
        for pictures, prompt in prompts:
            answer = await system.client.generate(pictures, Prompt.raw(prompt), compression=NONE, sampling=SAMPLING)
            assert answer.token_ids == whole.generate(pictures, prompt, 16), prompt


@pytest.mark.parametrize("text", ["llama", "qwen2"])
async def test_conversations(random_checkpoints: dict[str, Path], text: str) -> None:
    whole = WholeModel(random_checkpoints[text])
    images = [noise_image(112, 112), noise_image(200, 60)]
    picture = {"type": "image"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A thing."}]},
        {"role": "user", "content": [{"type": "text", "text": "And"}, picture, {"type": "text", "text": "this?"}]},
    ]
    async with running_system(random_checkpoints[text]) as system:
        answer = await system.client.generate(images, messages=messages, compression=NONE, sampling=SAMPLING)
        assert answer.token_ids == whole.chat(images, messages, 16)


async def test_the_shipped_checkpoint(shipped_checkpoint: Path) -> None:
    whole = WholeModel(shipped_checkpoint)
    samples = sorted((shipped_checkpoint.parent / "samples").glob("*.png"))
    assert samples
    question = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    async with running_system(shipped_checkpoint) as system:
        for path in samples:
            answer = await system.client.generate(
                path, "Describe the image.", compression=NONE, sampling=Sampling(max_new_tokens=96)
            )
            assert answer.token_ids == whole.chat([Image.open(path)], [{"role": "user", "content": question}], 96)
        for width, height in [(448, 448), (500, 300), (300, 900), (1200, 350), (64, 64), (1, 1)]:
            image = noise_image(width, height)
            answer = await system.client.generate(
                image, "What is in the image?", compression=NONE, sampling=Sampling(max_new_tokens=24)
            )
            content = [{"type": "image"}, {"type": "text", "text": "What is in the image?"}]
            assert answer.token_ids == whole.chat([image], [{"role": "user", "content": content}], 24)
