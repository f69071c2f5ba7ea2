"""Wrong settings of the prefill are refused before a replica sees them, and the next call succeeds."""

from collections.abc import Callable

import grpc
import pytest
from visionsplit.v1 import generation_pb2 as pb
from visionsplit.v1 import vision_tokens_pb2
from visionsplit.wire.vision_tokens import VisionTokens

from tests.integration.llm.support import Caller, Request, Whole, collect, picture

ASK = "USER: <image>\nWhat? ASSISTANT:"
TWO = "USER: <image> <image>\nWhich? ASSISTANT:"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
ORIGINAL = pb.Prefill(position_ids=pb.POSITION_IDS_ORIGINAL)


def pruning(method: str = "fastv", ratio: float | None = 0.5, **parameters: float) -> pb.Prefill:
    return pb.Prefill(pruning=pb.Pruning(method=method, retention_ratio=ratio, parameters=parameters))


def with_prefill(parts: list[Request], prefill: pb.Prefill, quotas: list[list[int] | None] | None = None):
    """The upload with a prefill in its header, and each image's quotas."""
    changed = [Request.FromString(part.SerializeToString()) for part in parts]
    changed[0].header.prefill.CopyFrom(prefill)
    images = [part for part in changed if part.WhichOneof("part") == "image"]
    for part, numbers in zip(images, quotas or [], strict=False):
        part.image.quotas[:] = numbers or []
    return changed


@pytest.fixture
def tokens(llama: Whole) -> VisionTokens:
    return llama.tokens(picture(112, 90))


@pytest.fixture
async def refused(llama_caller: Caller, tokens: VisionTokens, llama: Whole) -> Callable:
    """Sends something wrong; returns the error's name and text, then checks that the next call is right."""

    async def send(requests: list[Request]) -> tuple[str, str]:
        status, details, name = await llama_caller.status_of(requests)
        assert status is INVALID, details
        answer = await llama_caller.generate(ASK, [tokens], max_new_tokens=6)
        assert answer.token_ids == llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
        return name, details

    return send


@pytest.mark.parametrize(
    ("prefill", "says"),
    [
        (pruning("squeeze"), "unknown pruning method 'squeeze'; there are: fastv"),
        (pruning(ratio=0), "retention_ratio is 0"),
        (pruning(ratio=1.01), "retention_ratio is 1.01"),
        (pruning(ratio=float("nan")), "retention_ratio is nan"),
        (pruning(depth=2), "unknown parameter 'depth'"),
        (pruning(layer=2), "below the model's 2 layers"),
        (pruning("pyramiddrop"), "2 layers are too few"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("sent", ["header", "everything"])
async def test_a_wrong_pruning(refused, llama_caller: Caller, tokens, prefill: pb.Prefill, says: str, sent: str):
    parts = with_prefill(llama_caller.upload(ASK, [tokens]), prefill)
    name, details = await refused(parts[:1] if sent == "header" else parts)
    assert (name, says in details) == ("InvalidPruningError", True), details


async def test_neither_ratio_nor_quotas(refused, llama_caller: Caller, tokens):
    parts = with_prefill(llama_caller.upload(ASK, [tokens]), pruning(ratio=None, layer=1))
    assert await refused(parts[:2]) == ("InvalidPruningError", "method 'fastv' needs a retention_ratio in (0, 1]")


async def test_unknown_position_ids(refused, llama_caller: Caller, tokens):
    parts = with_prefill(llama_caller.upload(ASK, [tokens]), pb.Prefill(position_ids=7))
    name, details = await refused(parts)
    assert (name, "position ids 7 are not known here" in details) == ("InvalidRequestError", True)


async def test_original_position_ids_in_the_reference_layout(refused, llama_caller: Caller, tokens):
    parts = llama_caller.upload(ASK, [tokens], layout=vision_tokens_pb2.LAYOUT_REFERENCE)
    name, details = await refused(with_prefill(parts, ORIGINAL))
    assert (name, "original position ids need the spatial layout" in details) == ("InvalidRequestError", True)


async def test_original_places_beyond_the_context(refused, llama_caller: Caller, tokens):
    """Only the places are too many: the tokens themselves would be refused with their own header, later."""
    images = 12
    counts = images * tokens.num_tokens, images * tokens.grid.valid.height
    text = (await llama_caller.generate("<image>" * images, [tokens] * images, max_new_tokens=1)).summary.usage
    assert (text.vision_tokens, text.newline_tokens) == counts
    new = 1025 - text.prompt_tokens
    header = llama_caller.header("<image>" * images, [tokens] * images, max_new_tokens=new)
    name, details = await refused(with_prefill([header], ORIGINAL))
    assert name == "PromptTooLongError"
    assert f"{counts[0]} vision, {counts[1]} newlines" in details
    assert "1025 places; the checkpoint has 1024" in details


@pytest.mark.parametrize(
    ("quotas", "says"),
    [
        ([1, 1], "2 quotas for 5 tiles"),
        ([17, 1, 1, 1, 1], "tile 0 has a quota of 17 but only 16 tokens"),
        ([0, 0, 0, 0, 0], "every quota is 0"),
    ],
)
async def test_impossible_quotas(refused, llama_caller: Caller, tokens, quotas: list[int], says: str):
    parts = with_prefill(llama_caller.upload(ASK, [tokens]), pruning(layer=1), [quotas])
    name, details = await refused(parts)
    assert (name, says in details) == ("InvalidTokensError", True), details


async def test_quotas_and_nothing_that_takes_them(refused, llama_caller: Caller, tokens):
    parts = with_prefill(llama_caller.upload(ASK, [tokens]), pb.Prefill(), [[1, 1, 1, 1, 1]])
    name, details = await refused(parts)
    assert (name, "image 0 has quotas" in details) == ("InvalidPruningError", True)


@pytest.mark.parametrize("first", [True, False])
async def test_images_that_disagree_on_quotas(refused, llama_caller: Caller, tokens, first: bool):
    given: list[int] = [1, 1, 1, 1, 1]
    quotas = [given, None] if first else [None, given]
    parts = with_prefill(llama_caller.upload(TWO, [tokens, tokens]), pruning(layer=1), quotas)
    name, details = await refused(parts)
    expected = f"image {0 if first else 1} has quotas and image {1 if first else 0} has none"
    assert (name, expected in details) == ("InvalidTokensError", True), details


async def test_a_text_prompt_has_nothing_to_prune(llama_caller: Caller, llama: Whole):
    parts = with_prefill(llama_caller.upload("hi", max_new_tokens=4), pruning(layer=1))
    answer = await collect(llama_caller.call(parts))
    assert answer.token_ids == llama.generate("hi", [], max_new_tokens=4)
