"""Methods that read a text, through a real encoder service: whose text it is, where it comes from, what is refused."""

import asyncio
import itertools
import re

import grpc
import numpy as np
import pytest
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast
from visionsplit.command_line.settings import ConfigError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.families.padded_canvas import PaddedCanvasTiler
from visionsplit.grid import UnpadRule
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.v1 import encoder_service_pb2, generation_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from encoder_service.compression import METHODS, SCORES, TileFeatures, TowerOutput, compose, select
from encoder_service.config import PROGRAM, BatchLimits, CacheLimits, EncoderConfig
from encoder_service.device.batch_encoder import BatchEncoder
from encoder_service.device.encoding import EncodeRequest, ImageEncoding, PreparedImage, TileSpan
from encoder_service.device.text_tower import TextTower
from encoder_service.server import EncoderServer
from tests.clip_checkpoints import PIECE, llava_and_clip
from tests.unit.encoder.helpers import FakeLlm, drawn_image, file_of, running_encoder, running_llm, status_of_call

SIZES = [(300, 180), (90, 260), (57, 112)]
TEXTS = ["the red ball", "a wall", "Is there a green cube behind the small blue cylinder, or in front of it?"]
RATIO = 0.3
FLOAT32 = tensor_pb2.DATA_TYPE_FLOAT32


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return llava_and_clip(tmp_path_factory.mktemp("clip"), seed=8)


@pytest.fixture(scope="module")
def expected(checkpoints):
    """What is kept of an image for a text, with relevance by the library: budgets, positions and features."""
    checkpoint = Checkpoint(str(checkpoints[0]))
    tower = VisionTower.load(checkpoint, dtype=torch.float32, device=torch.device("cpu"))
    tiler, clip = PaddedCanvasTiler(checkpoint), CLIPModel.from_pretrained(checkpoints[1]).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints[1])

    @torch.no_grad()
    def of(size, text, method="cdpruner"):
        tiles = tiler.cut(drawn_image(*size, seed=sum(size)), UnpadRule.HUGGING_FACE)
        features = tower(tiles.pixels, frozenset()).features
        ids = tokenizer(text).input_ids
        ids = torch.tensor(ids + [0] * (-len(ids) % PIECE))
        mask = torch.arange(len(ids)) < len(tokenizer(text).input_ids)
        pieces = clip.get_text_features(
            input_ids=ids.view(-1, PIECE), attention_mask=mask.long().view(-1, PIECE)
        ).pooler_output
        patches = clip.visual_projection(clip.vision_model.post_layernorm(features))  # [T, P, E]
        cosines = torch.cosine_similarity(patches[:, :, None], pieces[None, None], dim=-1)  # [T, P, pieces]
        outputs = {TowerOutput.TEXT_RELEVANCE: -cosines.mean(dim=-1)}
        kept = select(TileFeatures(features, outputs), tiles.grid, Compression(method, RATIO))
        return kept.budgets, torch.cat(kept.positions).numpy(), kept.features.numpy()

    return of


def image_of(size):
    return encoder_service_pb2.Image(data=file_of(drawn_image(*size, seed=sum(size))))


def compression(text=None, method="cdpruner", ratio=RATIO, **fields):
    return vision_tokens_pb2.Compression(method=method, retention_ratio=ratio, guidance=text, **fields)


def encode_request(size, wanted):
    return encoder_service_pb2.EncodeRequest(image=image_of(size), compression=wanted, data_type=FLOAT32)


async def encoded(stub, size, wanted):
    assembler = None
    async for response in stub.Encode(encode_request(size, wanted)):
        if response.HasField("header"):
            assembler = assembler_of(response.header.grid, response.header.tokens, response.header.format)
        elif response.HasField("tokens"):
            assembler.add(response.tokens)
    return assembler.finish()


def assembler_of(grid, header, format_):
    return TokenAssembler(grid_from_proto(grid), header, feature_size=format_.feature_size)


def generate_request(prompt, wanted, sizes=SIZES[:1]):
    return encoder_service_pb2.EncoderServiceGenerateRequest(
        images=[image_of(size) for size in sizes], prompt=prompt, compression=wanted, data_type=FLOAT32
    )


def raw(text):
    return generation_pb2.Prompt(text=text)


def chat(*turns):
    """Turns of a role and parts, None for an image."""
    part = generation_pb2.ContentPart
    messages = [
        generation_pb2.ChatMessage(
            role=role,
            parts=[part(image=generation_pb2.ImagePart()) if text is None else part(text=text) for text in parts],
        )
        for role, *parts in turns
    ]
    return generation_pb2.Prompt(chat=generation_pb2.Chat(messages=messages))


def compare(tokens, expectation):
    budgets, positions, features = expectation
    assert list(tokens.budgets) == budgets
    order, right = np.lexsort(tokens.positions.T[::-1]), np.lexsort(positions.T[::-1])
    assert np.array_equal(tokens.positions[order], positions[right])
    np.testing.assert_allclose(tokens.features.to_float32()[order], features[right], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_batch_tiles", [2, 64])
async def test_each_request_goes_by_its_own_text(checkpoints, expected, max_batch_tiles):
    """All at once, some without any text: passes hold tiles of several images and texts, and images in pieces."""
    llava, clip = checkpoints
    limits = BatchLimits(max_batch_tiles, max_wait_seconds=0.05, max_queued_tiles=4096)
    cases = [(size, text) for size in SIZES for text in TEXTS]
    others = [(size, compression(method="globalcom2")) for size in SIZES]
    async with running_encoder(llava, text_tower=str(clip), batch=limits) as (_, stub):
        alone = [await encoded(stub, *other) for other in others]
        results = await asyncio.gather(
            *(encoded(stub, size, compression(text)) for size, text in cases),
            *(encoded(stub, *other) for other in others),
        )
    for (size, text), tokens in zip(cases, results, strict=False):
        compare(tokens, expected(size, text))
    for tokens, before in zip(results[len(cases) :], alone, strict=True):
        assert np.array_equal(tokens.positions, before.positions)
    kept = {text: expected(SIZES[0], text)[1].tolist() for text in TEXTS}
    assert all(kept[a] != kept[b] for a, b in itertools.pairwise(TEXTS))


def test_texts_do_not_mix_in_one_pass(checkpoints, expected):
    """Two texts and none over the same tiles, in two passes that hold parts of all three images."""
    checkpoint, device = Checkpoint(str(checkpoints[0])), torch.device("cpu")
    reader = TextTower.load(str(checkpoints[1]), checkpoint, revision=None, device=device)
    encoder = BatchEncoder(VisionTower.load(checkpoint, dtype=torch.float32, device=device), reader)
    size, found = SIZES[0], {}
    tiles = PaddedCanvasTiler(checkpoint).cut(drawn_image(*size, seed=sum(size)), UnpadRule.HUGGING_FACE)
    encodings = {
        text: ImageEncoding(
            EncodeRequest(
                PreparedImage(tiles.pixels, tiles.grid),
                compose(Compression("globalcom2" if text is None else "cdpruner", RATIO)),
                DataType.FLOAT32,
                None if text is None else reader.embed(text),
            )
        )
        for text in (TEXTS[0], None, TEXTS[2])
    }
    for first, stop in ((0, 2), (2, tiles.grid.num_tiles)):
        results = encoder.encode([TileSpan(encoding, first, stop) for encoding in encodings.values()])
        for text, result in zip(encodings, results, strict=True):
            if result is not None:
                found.setdefault(text, []).append(result)
    assert len(found[None]) == 2
    for text in (TEXTS[0], TEXTS[2]):
        (result,) = found[text]  # once, when the image was whole
        budgets, positions, features = expected(size, text)
        assert result.budgets == budgets
        assert np.array_equal(result.positions, positions)
        np.testing.assert_allclose(result.features.to_float32(), features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "guidance", "text"),
    [
        (raw("USER: <image>\nthe red ball ASSISTANT:"), None, "USER:  \nthe red ball ASSISTANT:"),
        (chat(("user", None, "the red ball")), None, "the red ball"),
        (
            chat(("user", None, "a wall"), ("assistant", "Yes."), ("user", "the red", "ball")),
            None,
            "the red\nball",
        ),
        (chat(("user", None, "the red ball"), ("assistant", "It is")), None, "the red ball"),
        (chat(("user", None, "a wall")), "the red ball", "the red ball"),
        (raw("<image>"), "the red ball", "the red ball"),
    ],
)
async def test_generate_reads_guidance_or_the_prompt(checkpoints, prompt, guidance, text):
    llava, clip = checkpoints
    fake = FakeLlm()
    async with (
        running_llm(fake) as address,
        running_encoder(llava, text_tower=str(clip), llm=address) as (_, stub),
    ):
        right = [await encoded(stub, size, compression(text)) for size in SIZES]
        wrong = [await encoded(stub, size, compression("a wall")) for size in SIZES]
        async for _ in stub.Generate(generate_request(prompt, compression(guidance), SIZES)):
            pass
    (header,) = fake.parts("header")
    assert header.prompt == prompt  # guidance is the encoder's alone
    for image, expectation, other in zip(
        sorted(fake.parts("image"), key=lambda part: part.image_index), right, wrong, strict=True
    ):
        assembler = assembler_of(header.grids[image.image_index], image, header.format)
        for chunk in fake.parts("tokens"):
            if chunk.image_index == image.image_index:
                assembler.add(chunk)
        positions = assembler.finish().positions
        assert np.array_equal(positions, expectation.positions)
        assert not np.array_equal(positions, other.positions)


async def test_a_default_method_that_reads_the_prompt(checkpoints, expected):
    llava, clip = checkpoints
    default = {"method": "cdpruner", "retention_ratio": RATIO}
    async with running_encoder(llava, text_tower=str(clip), **default) as (_, stub):
        call = stub.Encode(encoder_service_pb2.EncodeRequest(image=image_of(SIZES[0])))
        assert "needs guidance" in (await status_of_call(call))[1]
        compare(await encoded(stub, SIZES[0], compression(TEXTS[0])), expected(SIZES[0], TEXTS[0]))


async def test_what_reads_no_text_needs_none(checkpoints):
    """A ratio of 1 and quotas keep every token, whatever the method."""
    llava, _ = checkpoints
    async with running_encoder(llava) as (_, stub):
        whole = await encoded(stub, SIZES[0], compression(ratio=1.0))
        quotas = await encoded(stub, SIZES[0], compression(quotas_only=True))
    assert sum(whole.budgets) == len(quotas.positions)
    assert list(quotas.quotas) == [int(count * RATIO) for count in whole.budgets]


# --- refusals


async def refusal(call):
    code, details, name = await status_of_call(call)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    return name, details


async def test_refusals_of_encode(checkpoints):
    llava, clip = checkpoints
    cases = {
        compression().SerializeToString(): (
            "method 'cdpruner' reads a text, and encoding alone has no prompt; it needs guidance"
        ),
        compression("").SerializeToString(): "guidance is empty",
        compression(" \n").SerializeToString(): "guidance is empty",
        compression("é" * 4097).SerializeToString(): ("guidance has 8194 bytes; method 'cdpruner' reads 8192 at most"),
        compression("a cat", method="globalcom2").SerializeToString(): (
            "score 'global_local' looks at no text; guidance is for the scores: prompt_relevance"
        ),
        compression("a cat", score="flat").SerializeToString(): "score 'flat' looks at no text",
    }
    async with running_encoder(llava, text_tower=str(clip)) as (_, stub):
        for wanted, expected in cases.items():
            asked = vision_tokens_pb2.Compression.FromString(wanted)
            name, details = await refusal(stub.Encode(encode_request(SIZES[0], asked)))
            assert name == "InvalidCompressionError"
            assert details.startswith(expected)
        longest = await encoded(stub, SIZES[0], compression("é" * 4096))
        assert len(longest.positions)


@pytest.mark.parametrize("prompt", [raw("<image> \n"), chat(("user", None)), chat(("system", "Be brief."))])
async def test_a_prompt_without_text(checkpoints, prompt):
    llava, clip = checkpoints
    async with running_encoder(llava, text_tower=str(clip), llm="127.0.0.1:1") as (_, stub):
        name, details = await refusal(stub.Generate(generate_request(prompt, compression())))
        assert (name, "give the compression guidance" in details) == ("InvalidPromptError", True)


async def test_no_prompt(checkpoints):
    llava, clip = checkpoints
    async with running_encoder(llava, text_tower=str(clip), llm="127.0.0.1:1") as (_, stub):
        request = generate_request(None, compression())
        assert await refusal(stub.Generate(request)) == ("InvalidPromptError", "the request has no prompt")


async def test_a_long_prompt(checkpoints):
    llava, clip = checkpoints
    async with running_encoder(llava, text_tower=str(clip), llm="127.0.0.1:1") as (_, stub):
        request = generate_request(raw("<image>" + "x" * 9000), compression())
        name, details = await refusal(stub.Generate(request))
        assert name == "InvalidCompressionError"
        assert details == "the prompt's text has 9001 bytes; method 'cdpruner' reads 8192 at most"


async def test_no_text_tower(checkpoints):
    async with running_encoder(checkpoints[0], llm="127.0.0.1:1") as (_, stub):
        asked = compression("a cat")
        calls = (
            stub.Encode(encode_request(SIZES[0], asked)),
            stub.Generate(generate_request(raw("<image>what?"), compression())),
        )
        for call in calls:
            name, details = await refusal(call)
            assert name == "InvalidCompressionError"
            assert details == (
                "method 'cdpruner' reads a text; this encoder has no text tower, "
                "which its option --text-tower would load"
            )


async def test_a_typo_is_answered_with_what_this_encoder_offers(checkpoints):
    llava, clip = checkpoints
    for settings, offered in (({}, False), ({"text_tower": str(clip)}, True)):
        async with running_encoder(llava, **settings) as (_, stub):
            for wrong, hidden in (({"method": "cdpruned"}, "cdpruner"), ({"score": "promt"}, "prompt_relevance")):
                asked = vision_tokens_pb2.Compression(**{"method": "globalcom2", "retention_ratio": 0.5, **wrong})
                _, details = await refusal(stub.Encode(encode_request(SIZES[0], asked)))
                assert (hidden in details) is offered


async def test_info_names_what_reads_a_text_only_where_it_can_be_read(checkpoints):
    llava, clip = checkpoints
    listed = []
    for settings in ({}, {"text_tower": str(clip)}):
        async with running_encoder(llava, **settings) as (_, stub):
            info = await stub.GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
            listed.append(([one.name for one in info.methods], [one.name for one in info.scores]))
    (methods, scores), (all_methods, all_scores) = listed
    assert (all_methods, all_scores) == (list(METHODS), list(SCORES))
    assert set(all_methods) - set(methods) == {"cdpruner"}
    assert set(all_scores) - set(scores) == {"prompt_relevance"}


def test_settings(checkpoints):
    with pytest.raises(ConfigError, match="'cdpruner' looks at the prompt; it needs a text_tower"):
        EncoderServer(EncoderConfig("m", method="cdpruner", retention_ratio=0.5))
    with pytest.raises(ConfigError, match=re.escape("text_tower_revision is given without text_tower")):
        EncoderConfig("m", text_tower_revision="main")
    arguments = ["--model", "m", "--text-tower", "clip", "--text-tower-revision", "r", "--method", "cdpruner"]
    config = PROGRAM.read([*arguments, "--retention-ratio", "0.5"])
    assert (config.text_tower, config.text_tower_revision) == ("clip", "r")


async def test_what_one_text_kept_is_never_served_for_another(checkpoints, expected):
    """With the cache on, one after the other."""
    llava, clip = map(str, checkpoints)
    async with running_encoder(llava, text_tower=clip, cache=CacheLimits(memory_bytes=2**20)) as (_, stub):
        for text in (*TEXTS, *TEXTS):
            budgets, positions, features = expected(SIZES[0], text)
            kept = await encoded(stub, SIZES[0], compression(text))
            assert list(kept.budgets) == budgets
            assert np.array_equal(kept.positions, positions)
            np.testing.assert_allclose(kept.features.to_float32(), features, rtol=1e-4, atol=1e-5)
