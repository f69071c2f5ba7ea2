"""A replica with two engines: one for pruning and original positions, one for everything else, at the same time."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from visionsplit.errors import InvalidPruningError, PromptTooLongError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.options.prefill import POSITION_IDS, Pruning

from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.pruning import PromptLayout, compose
from llm_service.replica.replica import Replica
from llm_service.replica.text_model import load_text_model
from tests.integration.llm.layerwise_support import (
    ASK,
    FASTV,
    LAYERS,
    answer,
    deep_checkpoint,
    events,
    job,
    plain_decoding,
    replica_of,
    whole_embeddings,
)
from tests.integration.llm.support import Whole, keep, picture

Served = tuple[Whole, Replica]


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    whole = deep_checkpoint(tmp_path_factory.mktemp("deep"), request.param)
    with replica_of(whole) as replica:
        yield whole, replica


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    whole = deep_checkpoint(tmp_path_factory.mktemp("deep"), "llama")
    with replica_of(whole) as replica:
        yield whole, replica


async def test_original_places_of_every_token_are_the_usual_ones(served: Served):
    whole, replica = served
    image = picture(112, 90)
    expected = whole.generate(ASK, [image], max_new_tokens=16)
    asked = job(whole, [whole.tokens(image)], position_ids="original")
    found = await events(replica, asked)
    assert [token for event in found for token in event.token_ids] == expected
    assert all(event.layer_tokens is None for event in found)
    assert [event.finished for event in found] == [False] * (len(found) - 1) + [True]
    assert await answer(replica, replace(asked, position_ids="renumbered")) == expected


async def test_both_engines_choose_the_same_tokens_by_the_same_options(served: Served):
    whole, replica = served
    tokens = whole.tokens(picture(112, 112, 2))
    drawn = set()
    for seed, options in enumerate(
        (
            {"temperature": 1.2},
            {"temperature": 1.5, "top_k": 20, "top_p": 0.9, "seed": 2**64 - 5},
            {"temperature": 0.8, "repetition_penalty": 1.4},
            {"repetition_penalty": 1.8},
        )
    ):
        asked = job(whole, [tokens], sampling={"max_new_tokens": 24, "seed": seed, **options})
        usual = await answer(replica, asked)
        assert await answer(replica, replace(asked, position_ids="original")) == usual
        drawn.add(tuple(usual))
    assert len(drawn) == 4


async def test_original_places_of_some_tokens(served: Served):
    whole, replica = served
    image = picture(112, 70, 3)
    tokens = whole.tokens(image)
    kept = np.flatnonzero(np.random.default_rng(1).random(tokens.num_tokens) < 0.4)
    embeddings, of_image = whole_embeddings(whole, image)
    grid, start = tokens.grid, int(of_image.nonzero()[0])
    numbers = {tuple(position): row for row, position in enumerate(tokens.positions.tolist())}
    rows = [(0, y, x) for y in range(grid.side) for x in range(grid.side)]
    sequence: list[int | None] = [numbers[row] for row in rows]
    for y in range(grid.valid.top, grid.valid.bottom):
        for x in range(grid.valid.left, grid.valid.right):
            tile = 1 + y // grid.side * grid.columns + x // grid.side
            sequence.append(numbers[tile, y % grid.side, x % grid.side])
        sequence.append(None)
    places = [
        place
        for place in range(len(embeddings))
        if not of_image[place] or sequence[place - start] is None or sequence[place - start] in set(kept.tolist())
    ]
    chosen = torch.tensor(places)
    expected = plain_decoding(whole, embeddings[chosen], chosen, 16)
    asked = job(whole, [keep(tokens, kept)], position_ids="original")
    found = await answer(replica, asked)
    assert found == expected[: len(found)]
    assert len(found) == 16 or found[-1] == 3
    renumbered = await answer(replica, replace(asked, position_ids="renumbered"))
    again = plain_decoding(whole, embeddings[chosen], torch.arange(len(places)), 16)
    assert renumbered == again[: len(renumbered)]


@pytest.mark.parametrize("spec", [FASTV, Pruning("pyramiddrop"), Pruning("sparsevlm", 0.4), Pruning("sparsevlm")])
async def test_pruning_reads_the_prompt_as_the_whole_model_does(served: Served, spec: Pruning):
    """The engine against the layers themselves, fed with what the library's whole model makes of image and text."""
    whole, replica = served
    image = picture(112, 112, 4)
    embeddings, of_image = whole_embeddings(whole, image)
    model = LayerwiseModel(
        load_text_model(Checkpoint(str(whole.path)), device=torch.device("cpu"), dtype=torch.float32)
    )
    state = model.prefill(embeddings, PromptLayout.of(of_image), compose(spec, LAYERS))
    expected: list[int] = []
    while len(expected) < 16 and 3 not in expected:
        expected.append(int(state.logits.argmax()))
        model.step(state, expected[-1])
    found = await events(replica, job(whole, [whole.tokens(image)], pruning=spec))
    assert [token for event in found for token in event.token_ids] == expected
    assert found[0].layer_tokens == state.layer_tokens
    assert state.layer_tokens[0] == len(embeddings)
    assert all(event.layer_tokens is None for event in found[1:])


async def test_quotas_come_with_the_images(llama: Served):
    whole, replica = llama
    first, second = whole.tokens(picture(112, 112, 1)), whole.tokens(picture(112, 56, 2))
    quotas = tuple(range(first.grid.num_tiles))
    asked = job(whole, [replace(first, quotas=quotas)], pruning=Pruning("fastv"))
    found = await events(replica, asked)
    text = len(asked.token_ids) - 1
    whole_prompt = text + first.num_tokens + first.grid.valid.height
    left = text + sum(quotas) + first.grid.valid.height
    assert found[0].layer_tokens == (whole_prompt,) * 2 + (left,) * 4
    two = job(whole, [replace(first, quotas=quotas), second], "<image> and <image>?", pruning=Pruning("fastv"))
    found = await events(replica, two)
    assert found[0].layer_tokens is not None
    gone = first.num_tokens - sum(quotas)  # the image without quotas keeps all
    assert found[0].layer_tokens[5] == found[0].layer_tokens[0] - gone


async def test_pruning_after_compression_with_original_places(llama: Served):
    whole, replica = llama
    tokens = keep(whole.tokens(picture(112, 112, 1)), np.arange(0, 60, 3))
    asked = job(whole, [tokens], pruning=FASTV)
    for position_ids in POSITION_IDS:
        found = await events(replica, replace(asked, position_ids=position_ids))
        vision = tokens.num_tokens + tokens.grid.valid.height
        text = len(asked.token_ids) - 1
        assert found[0].layer_tokens == (text + vision,) * 2 + (text + vision // 4,) * 4


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"pruning": Pruning("best")}, InvalidPruningError, "unknown pruning method 'best'"),
        ({"pruning": Pruning("fastv", 0.5, {"layer": 6})}, InvalidPruningError, "below the model's 6 layers"),
        (
            {"pruning": FASTV, "sampling": {"max_new_tokens": 1024}},
            PromptTooLongError,
            r"prompt of \d+ tokens and 1024 new tokens need \d+; this replica holds 1024",
        ),
    ],
)
async def test_refusals(llama: Served, fields: dict, error: type[Exception], message: str):
    whole, replica = llama
    with pytest.raises(error, match=message):
        await answer(replica, job(whole, [whole.tokens(picture(56, 56))], **fields))


async def test_quotas_and_places_that_do_not_fit_are_refused(llama: Served):
    whole, replica = llama
    tokens = whole.tokens(picture(112, 112))
    with pytest.raises(InvalidPruningError, match="takes no quotas"):
        await answer(
            replica,
            job(whole, [replace(tokens, quotas=(1,) * 5)], pruning=Pruning("pyramiddrop")),
        )
    # Few tokens, but their places are those of the whole images.
    few = keep(tokens, np.arange(3))
    prompt, sampling = "<image>" * 10, {"max_new_tokens": 300}
    assert await answer(replica, job(whole, [few] * 10, prompt, sampling={"max_new_tokens": 2}))
    with pytest.raises(PromptTooLongError, match=r"positions and 300 new tokens need \d+; the model has 1024"):
        await answer(replica, job(whole, [few] * 10, prompt, sampling=sampling, position_ids="original"))


async def test_both_engines_at_once(served: Served):
    whole, replica = served
    images = [whole.tokens(picture(112, 112, seed)) for seed in range(2)]
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 3}
    specs = [None, FASTV, Pruning("pyramiddrop"), Pruning("sparsevlm", 0.5)]
    asked = [job(whole, [image], sampling=options, pruning=spec) for image in images for spec in specs]
    alone = [await answer(replica, one) for one in asked]
    crowd = await asyncio.gather(*(answer(replica, one) for one in asked * 2))
    assert crowd == alone * 2
    assert len({tuple(tokens) for tokens in alone}) == len(asked)
