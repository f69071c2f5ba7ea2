"""Every family: with nothing pruned the two services answer as the whole model does, and with 25% of the tokens as the
whole model does that is given exactly these."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from visionsplit_client import AsyncClient, Compression, EncodedImage, Prompt, Sampling

from llm_service.config import EngineKind
from tests import family_checkpoints
from tests.family_checkpoints import WholeFamilyModel
from tests.integration.llm.support import ENGINE, engine_config
from tests.integration.system import running_system
from tests.noise import noise_image

NEW_TOKENS = 10
SAMPLING = Sampling(max_new_tokens=NEW_TOKENS)
NONE, QUARTER = Compression("none"), Compression("globalcom2", 0.25)
# Width and height: whole tiles, odd, strips, tiny, and large enough to be pooled.
SIZES = [
    *[(56, 56), (112, 112), (168, 112), (96, 144), (113, 97), (57, 201), (333, 77), (640, 480), (400, 399)],
    *[(1000, 5), (5, 1000), (900, 30), (1, 1), (2, 3), (10, 7), (290, 205)],
]

# On a CPU vLLM answers otherwise where a prompt is longer than a sliding window (docs/engines.md).
WINDOW = {"sliding_window": 32 if ENGINE is EngineKind.TRANSFORMERS else 4096}

CHECKPOINTS: dict[str, Callable[[Path], WholeFamilyModel]] = {
    "internvl-qwen2": family_checkpoints.internvl,
    "internvl-qwen3-qk-norm": lambda folder: family_checkpoints.internvl(folder, "qwen3", qk_norm=True),
    # Tokens that are narrower before the connector than behind it: the connector runs in the LLM service.
    "internvl-llama-wide": lambda folder: family_checkpoints.internvl(folder, "llama", language={"hidden_size": 160}),
    "smolvlm": family_checkpoints.smolvlm,
    "idefics3-wide": lambda folder: family_checkpoints.smolvlm(folder, "idefics3", language={"hidden_size": 160}),
    "llava-onevision": family_checkpoints.llava_onevision,  # narrower before the connector, but where it is pooled
    "llava-onevision-narrow": lambda folder: family_checkpoints.llava_onevision(folder, vision={"hidden_size": 96}),
    "aya-vision": lambda folder: family_checkpoints.aya_vision(folder, language=WINDOW),
    "aya-vision-wide": lambda folder: family_checkpoints.aya_vision(
        folder, tiles_are_tokens=False, language={"hidden_size": 160, **WINDOW}
    ),
}


@pytest.fixture(params=CHECKPOINTS)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> WholeFamilyModel:
    return CHECKPOINTS[request.param](tmp_path)


async def test_the_halves_answer_as_the_whole_model(whole: WholeFamilyModel) -> None:
    question = f"<|im_start|>user\n{whole.placeholder}\nWas ist das? é😀<|im_end|>\n<|im_start|>assistant\n"
    answers = set()
    async with running_system(whole.path, llm={"engine": engine_config()}) as system:
        for width, height in SIZES:
            image = noise_image(width, height)
            answer = await system.client.generate(image, Prompt.raw(question), compression=NONE, sampling=SAMPLING)
            assert answer.token_ids == whole.generate(question, [image], NEW_TOKENS), f"{width} x {height}"
            answers.add(answer.token_ids)
        assert len(answers) > len(SIZES) // 2  # else the images make no difference, and equality says nothing
        await _several_images(whole, system.client)
        for width, height in SIZES[::3]:
            await _a_quarter(whole, system.client, question, noise_image(width, height))


async def _several_images(whole: WholeFamilyModel, client: AsyncClient) -> None:
    images = [noise_image(*size, seed=index) for index, size in enumerate([(112, 112), (300, 90), (60, 200)])]
    mark = whole.placeholder
    prompts = [
        (images, f"<|im_start|>user\n{mark}\n{mark}\n\nand {mark} differ how?<|im_end|>\n"),
        ([images[1], images[1]], f"first {mark} then\n{mark} again"),
        ([], "<|im_start|>user\nNo image here.<|im_end|>\n<|im_start|>assistant\n"),
    ]
    for pictures, prompt in prompts:
        answer = await client.generate(pictures, Prompt.raw(prompt), compression=NONE, sampling=SAMPLING)
        assert answer.token_ids == whole.generate(prompt, pictures, NEW_TOKENS), prompt
    # A conversation by the chat template; what a caller's text spells is text.
    told = await client.generate(images[:1], f"What is {mark}?", compression=NONE, sampling=SAMPLING)
    assert told.usage.prompt_tokens > 0


async def _a_quarter(whole: WholeFamilyModel, client: AsyncClient, prompt: str, image: Image.Image) -> None:
    encoded = await client.encode(image, QUARTER)
    answer = await client.generate(image, Prompt.raw(prompt), compression=QUARTER, sampling=SAMPLING)
    from_tokens = await client.generate_from_tokens(encoded, Prompt.raw(prompt), sampling=SAMPLING)
    kept = kept_tokens(encoded)
    assert answer.token_ids == whole.generate_from(prompt, [image], kept, NEW_TOKENS), image.size
    assert from_tokens.token_ids == answer.token_ids
    before, after = encoded.summary.tokens_before, encoded.summary.tokens_after
    assert 0.15 * before < after <= 0.4 * before


def kept_tokens(encoded: EncodedImage) -> torch.Tensor:
    """Which of the image's tokens in the whole model's prompt are kept, newlines included, [n] bool."""
    grid, side = encoded.tokens.grid, encoded.tokens.grid.side
    tile, row, column = encoded.tokens.positions.T
    tiles = np.zeros((grid.num_tiles, side, side), bool)
    tiles[tile, row, column] = True
    if encoded.format.family != "llava_onevision":
        return torch.from_numpy(np.concatenate([tiles[1:].ravel(), tiles[0].ravel()]))
    thumbnail = tiles[0].ravel()
    if not grid.num_crops:
        return torch.from_numpy(np.append(thumbnail, True))
    canvas = []
    for crop_row, (start, end) in enumerate(pairwise(grid.crop_rows)):
        parts = [
            tiles[1 + crop_row * grid.columns + crop_column, : end - start, : right - left]
            for crop_column, (left, right) in enumerate(pairwise(grid.crop_columns))
        ]
        canvas.append(np.concatenate(parts, axis=1))
    valid = grid.valid
    shown = np.concatenate(canvas)[valid.top : valid.bottom, valid.left : valid.right]
    with_newlines = np.pad(shown, ((0, 0), (0, 1)), constant_values=True)
    return torch.from_numpy(np.concatenate([thumbnail, with_newlines.ravel()]))
