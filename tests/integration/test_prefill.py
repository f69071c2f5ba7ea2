"""Pruning in the language model, quotas and position ids through both services, from the client to the replica."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from visionsplit.errors import (
    InvalidCompressionError,
    InvalidPruningError,
    InvalidRequestError,
    PromptTooLongError,
    VisionSplitError,
)
from visionsplit_client import Compression, EncodedImage, Generation, Prompt, Pruning, Sampling

from tests.checkpoints import tiny_checkpoint
from tests.integration.system import System, WholeModel, running_system
from tests.noise import noise_image

LAYERS = 8
ASK = Prompt.raw("USER: <image>\nWhat is this? ASSISTANT:")
TWO = Prompt.raw("USER: <image> <image>\nWhich one? ASSISTANT:")
SIX = Sampling(max_new_tokens=6)
HALF = Compression("globalcom2", 0.5)
HALF_AS_QUOTAS = Compression("globalcom2", 0.5, quotas_only=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Deep enough for three stages."""
    folder = tmp_path_factory.mktemp("deep")
    return tiny_checkpoint(folder, "llama", seed=5, language={"num_hidden_layers": LAYERS})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(checkpoint: Path) -> AsyncIterator[System]:
    async with running_system(checkpoint) as running:
        yield running


def expected_layers(answer: Generation, stages: dict[int, int]) -> tuple[int, ...]:
    """Prompt tokens by layer; `stages` says how many vision tokens, newlines included, are left from a layer on."""
    usage = answer.usage
    left = usage.vision_tokens + usage.newline_tokens
    layers = []
    for layer in range(LAYERS):
        left = stages.get(layer, left)
        layers.append(usage.text_tokens + left)
    return tuple(layers)


def vision_span(answer: Generation) -> int:
    return answer.usage.vision_tokens + answer.usage.newline_tokens


@pytest.mark.parametrize("compression", [Compression.none(), HALF], ids=["alone", "behind a compression"])
async def test_fastv_drops_once(system: System, compression: Compression) -> None:
    answer = await system.client.generate(
        noise_image(112, 90), ASK, compression=compression, pruning=Pruning("fastv", 0.3, {"layer": 3}), sampling=SIX
    )
    assert answer.layer_tokens == expected_layers(answer, {3: int(vision_span(answer) * 0.3)})
    assert answer.usage.prompt_tokens == answer.layer_tokens[0]  # what came in, whatever was dropped later


async def test_pyramiddrop_as_published(system: System) -> None:
    """After 8, 16 and 24 of 32 layers: here after 2, 4 and 6 of 8."""
    answer = await system.client.generate(
        noise_image(112, 90), ASK, compression=HALF, pruning=Pruning("pyramiddrop"), sampling=SIX
    )
    whole = vision_span(answer)
    stages = {2: int(whole * 0.5), 4: int(whole * 0.25), 6: int(whole * 0.125)}
    assert answer.layer_tokens == expected_layers(answer, stages)


async def test_pruning_that_keeps_everything_changes_nothing(system: System) -> None:
    asked = {"compression": HALF, "sampling": SIX}
    plain = await system.client.generate(noise_image(112, 90), ASK, **asked)
    pruned = await system.client.generate(noise_image(112, 90), ASK, pruning=Pruning("fastv", 1.0), **asked)
    assert pruned.token_ids == plain.token_ids
    assert pruned.layer_tokens == (plain.usage.prompt_tokens,) * LAYERS
    assert plain.layer_tokens == ()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("mistral", {"sliding_window": 40}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}),
    ],
)
async def test_both_engines_answer_beyond_a_sliding_window(tmp_path: Path, text: str, language: dict[str, Any]) -> None:
    """A prompt and an answer longer than the window: both equal to the whole model."""
    folder = tiny_checkpoint(tmp_path, text, language=language)
    image, asked = noise_image(112, 90), {"compression": Compression.none(), "sampling": Sampling(max_new_tokens=48)}
    whole = WholeModel(folder).generate([image], "USER: <image>\nWhat is this? ASSISTANT:", 48)
    async with running_system(folder) as running:
        batched = await running.client.generate(image, ASK, **asked)
        layerwise = await running.client.generate(image, ASK, pruning=Pruning("fastv", 1.0, {"layer": 1}), **asked)
    assert layerwise.layer_tokens[0] > 40
    assert batched.token_ids == layerwise.token_ids == whole


@pytest.mark.parametrize("sizes", [[(112, 90)], [(112, 90), (60, 150)]], ids=["one image", "two images"])
async def test_quotas_are_the_compressions_own_numbers(system: System, sizes: list[tuple[int, int]]) -> None:
    pictures = [noise_image(*size) for size in sizes]
    kept = [await system.client.encode(picture, HALF) for picture in pictures]
    prompt = ASK if len(sizes) == 1 else TWO
    fastv = Pruning("fastv", parameters={"layer": 3})
    answer = await system.client.generate(pictures, prompt, compression=HALF_AS_QUOTAS, pruning=fastv, sampling=SIX)
    assert answer.usage.vision_tokens == answer.usage.vision_tokens_before  # every token was sent
    left = sum(sum(image.tokens.budgets) for image in kept) + answer.usage.newline_tokens
    assert answer.layer_tokens == expected_layers(answer, {3: left})


async def test_stored_tokens_are_asked_about_with_their_quotas(system: System, tmp_path: Path) -> None:
    picture = noise_image(112, 90)
    (await system.client.encode(picture, HALF_AS_QUOTAS)).save(tmp_path / "tokens.safetensors")
    stored = EncodedImage.load(tmp_path / "tokens.safetensors")
    assert stored.tokens.quotas == (await system.client.encode(picture, HALF)).tokens.budgets
    asked = {"pruning": Pruning("fastv"), "sampling": SIX}
    answer = await system.client.generate_from_tokens(stored, ASK, **asked)
    whole = await system.client.generate(picture, ASK, compression=HALF_AS_QUOTAS, **asked)
    assert answer.layer_tokens == whole.layer_tokens
    assert answer.token_ids == whole.token_ids


async def test_a_text_prompt_has_nothing_to_prune(system: System) -> None:
    answer = await system.client.generate(None, Prompt.raw("Hello"), pruning=Pruning("fastv", 0.5), sampling=SIX)
    plain = await system.client.generate(None, Prompt.raw("Hello"), sampling=SIX)
    assert answer.token_ids == plain.token_ids
    assert set(answer.layer_tokens) <= {plain.usage.prompt_tokens}


@torch.no_grad()
def at_original_places(checkpoint: Path, image: EncodedImage, picture: object, count: int) -> list[int]:
    """Greedy tokens of Hugging Face's own layers on the kept rows of the uncompressed prompt, where they were."""
    processor = LlavaNextProcessor.from_pretrained(checkpoint)
    model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    seen: dict[str, torch.Tensor] = {}

    def note(module: torch.nn.Module, args: tuple, kwargs: dict[str, torch.Tensor]) -> None:
        seen["embeddings"] = kwargs["inputs_embeds"]

    handle = model.model.language_model.register_forward_pre_hook(note, with_kwargs=True)
    inputs = processor(images=[picture], text=ASK.text, return_tensors="pt")
    model(**inputs)
    handle.remove()
    is_image = inputs["input_ids"][0] == model.config.image_token_id  # [n]
    first = int(is_image.nonzero()[0])
    grid = image.tokens.grid
    cells = {(0, row, column): row * grid.side + column for row in range(grid.side) for column in range(grid.side)}
    newlines, place = set(), grid.cells_per_tile
    for row in range(grid.valid.top, grid.valid.bottom):
        for column in range(grid.valid.left, grid.valid.right):
            tile = 1 + row // grid.side * grid.columns + column // grid.side
            cells[tile, row % grid.side, column % grid.side] = place
            place += 1
        newlines.add(place)
        place += 1
    assert place == int(is_image.sum())
    kept = newlines | {cells[tuple(position)] for position in image.tokens.positions.tolist()}
    places = [index for index in range(len(is_image)) if not is_image[index] or index - first in kept]
    embeddings, tokens = seen["embeddings"][:, places], []
    for _ in range(count):
        output = model.model.language_model(inputs_embeds=embeddings, position_ids=torch.tensor([places]))
        tokens.append(int(model.lm_head(output.last_hidden_state[0, -1]).argmax()))
        places.append(places[-1] + 1)
        embeddings = torch.cat([embeddings, model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))], dim=1)
    return tokens


async def test_original_position_ids_are_those_of_the_uncompressed_prompt(system: System, checkpoint: Path) -> None:
    picture = noise_image(112, 90)
    asked = {"compression": Compression("globalcom2", 0.3), "sampling": SIX}
    kept = await system.client.encode(picture, asked["compression"])
    answer = await system.client.generate(picture, ASK, position_ids="original", **asked)
    assert list(answer.token_ids) == at_original_places(checkpoint, kept, picture, len(answer.token_ids))
    renumbered = await system.client.generate(picture, ASK, position_ids="renumbered", **asked)
    assert renumbered.token_ids == (await system.client.generate(picture, ASK, **asked)).token_ids
    assert renumbered.token_ids != answer.token_ids
    assert answer.layer_tokens == renumbered.layer_tokens == ()


async def test_without_compression_both_position_ids_are_the_same(system: System) -> None:
    asked = {"compression": Compression.none(), "sampling": SIX}
    picture = noise_image(112, 90)
    original = await system.client.generate(picture, ASK, position_ids="original", **asked)
    assert original.token_ids == (await system.client.generate(picture, ASK, **asked)).token_ids


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"pruning": Pruning("squeeze", 0.5)}, InvalidPruningError, "unknown pruning method 'squeeze'; there are: "),
        ({"pruning": Pruning("fastv", 0.0)}, InvalidPruningError, "retention_ratio is 0"),
        ({"pruning": Pruning("fastv", float("nan"))}, InvalidPruningError, "retention_ratio is nan"),
        ({"pruning": Pruning("fastv", 0.5, {"k": 2})}, InvalidPruningError, "unknown parameter 'k'"),
        ({"pruning": Pruning("fastv", 0.5, {"layer": 8})}, InvalidPruningError, "below the model's 8 layers"),
        ({"pruning": Pruning("fastv")}, InvalidPruningError, "'fastv' needs a retention_ratio"),
        (
            {"pruning": Pruning("pyramiddrop"), "compression": HALF_AS_QUOTAS},
            InvalidPruningError,
            "'pyramiddrop' takes no quotas; these do: fastv",
        ),
        ({"compression": HALF_AS_QUOTAS}, InvalidCompressionError, "the request asks for no pruning"),
        (
            {"position_ids": "original", "compression": Compression("globalcom2", 0.5, layout="reference")},
            InvalidRequestError,
            "original position ids need the spatial layout",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_is_refused(
    system: System, asked: dict[str, object], error: type[VisionSplitError], says: str
) -> None:
    with pytest.raises(VisionSplitError) as failure:
        await system.client.generate(noise_image(112, 90), ASK, sampling=SIX, **asked)
    assert (type(failure.value), says in str(failure.value)) == (error, True), failure.value
    assert (await system.client.generate(noise_image(112, 90), ASK, sampling=SIX)).token_ids  # unharmed


async def test_quotas_for_nobody_are_refused_before_the_image_is_looked_at(system: System) -> None:
    with pytest.raises(InvalidCompressionError, match="the request asks for no pruning"):
        await system.client.generate(b"no image", ASK, compression=HALF_AS_QUOTAS)


async def test_stored_quotas_are_refused_without_pruning(system: System) -> None:
    image = await system.client.encode(noise_image(112, 90), HALF_AS_QUOTAS)
    with pytest.raises(InvalidPruningError, match=r"image 0 has quotas .*; the request asks for no pruning"):
        await system.client.generate_from_tokens(image, ASK)


async def test_original_places_that_exceed_the_context_are_refused_though_the_tokens_fit(system: System) -> None:
    pictures, prompt = [noise_image(112, 112)] * 12, Prompt.raw("<image>" * 12)
    asked = {"compression": Compression("globalcom2", 0.25), "sampling": SIX}
    answer = await system.client.generate(pictures, prompt, **asked)
    total = answer.usage.vision_tokens_before + answer.usage.newline_tokens + answer.usage.text_tokens + 6
    assert total > 1024
    with pytest.raises(PromptTooLongError, match=f"{total} places; the checkpoint has 1024"):
        await system.client.generate(pictures, prompt, position_ids="original", **asked)


async def test_the_methods_are_listed(system: System) -> None:
    methods = {method.name: method for method in (await system.client.llm_info()).pruning_methods}
    assert {"fastv", "pyramiddrop", "sparsevlm"} <= methods.keys()
    assert methods["fastv"].parameters == {"layer": 2.0}
    assert "2403.06764" in methods["fastv"].description
