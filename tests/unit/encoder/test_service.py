"""The encoder service over real sockets."""

import asyncio
import re
import zlib

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from safetensors.torch import load_file, save_file
from visionsplit.command_line.settings import ConfigError
from visionsplit.images import ImageLimits
from visionsplit.v1 import encoder_service_pb2, generation_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from encoder_service.compression import BUDGETS, MERGINGS, METHODS, SCORES, SELECTIONS
from encoder_service.config import BatchLimits, EncoderConfig
from encoder_service.server import SERVICE_NAME, EncoderServer
from tests.checkpoints import tiny_checkpoint
from tests.unfinished import RawConnection, prefix
from tests.unit.encoder.helpers import FakeLlm, globalcom2, png, running_encoder, running_llm, status_of_call
from tests.unit.images.png_matrix import COLOUR
from tests.unit.images.png_matrix import png as png_of
from tests.unit.images.tiff_matrix import packed, tiff
from tests.unit.images.variants import samples

ENCODE = "/visionsplit.v1.EncoderService/Encode"
EncodeRequest = encoder_service_pb2.EncodeRequest
GenerateRequest = encoder_service_pb2.EncoderServiceGenerateRequest
Image = encoder_service_pb2.Image


@pytest.fixture
def model(random_checkpoints):
    return random_checkpoints["llama"]


async def encode(stub, data, compression=None, data_type=tensor_pb2.DATA_TYPE_UNSPECIFIED):
    """The checked tokens and the summary."""
    assembler, summary, order = None, None, []
    request = EncodeRequest(image=Image(data=data), compression=compression, data_type=data_type)
    async for response in stub.Encode(request):
        order.append(response.WhichOneof("event"))
        if order[-1] == "header":
            header = response.header
            assembler = TokenAssembler(
                grid_from_proto(header.grid), header.tokens, feature_size=header.format.feature_size
            )
        elif order[-1] == "tokens":
            assembler.add(response.tokens)
        else:
            summary = response.summary
    assert order[0] == "header"
    assert order[-1] == "summary"
    return assembler.finish(), summary


async def test_encode_delivers_what_the_summary_says(model):
    async with running_encoder(model) as (_, stub):
        tokens, summary = await encode(stub, png(300, 200), globalcom2(0.5))
        assert tokens.budgets == tuple(summary.budgets)
        assert summary.tokens_after == tokens.num_tokens == sum(tokens.budgets)
        assert summary.tokens_before == sum(tokens.grid.valid_counts())
        assert summary.wire_bytes == tokens.num_bytes
        timings = summary.timings
        assert 0 < timings.first_chunk_seconds <= timings.total_seconds
        assert timings.preprocess_seconds > 0
        assert timings.encode_seconds > 0


async def test_an_image_is_the_same_in_any_file(model):
    """Files whose samples Pillow misreads, or whose metadata it refuses, beside a plain PNG of the same image."""
    rgb = samples(200, 300, 3, 8)
    planes, _ = tiff(np.moveaxis(rgb * np.uint16(257), 2, 0), photometric="rgb", planarconfig="separate")
    texts = png_of(rgb, COLOUR, 8, extra=[(b"zTXt", b"x\0\0" + zlib.compress(bytes(3_000_000)))])
    async with running_encoder(model) as (_, stub):
        plain, _ = await encode(stub, png_of(rgb, COLOUR, 8), globalcom2(0.5))
        for data in (planes, texts):
            tokens, _ = await encode(stub, data, globalcom2(0.5))
            np.testing.assert_allclose(tokens.features.to_float32(), plain.features.to_float32(), atol=1e-5)
        mask = packed(rgb[:, :, :1], 8, t262=(3, 4))
        code, text, _ = await status_of_call(stub.Encode(EncodeRequest(image=Image(data=mask))))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "a transparency mask" in text


async def test_data_types_agree_within_their_precision(model):
    async with running_encoder(model) as (_, stub):
        exact, _ = await encode(stub, png(300, 200), globalcom2(0.5))
        full = exact.features.to_float32()
        for data_type, tolerance in ((tensor_pb2.DATA_TYPE_FLOAT16, 1e-3), (tensor_pb2.DATA_TYPE_BFLOAT16, 8e-3)):
            tokens, _ = await encode(stub, png(300, 200), globalcom2(0.5), data_type)
            np.testing.assert_allclose(tokens.features.to_float32(), full, rtol=tolerance, atol=1e-4)
            assert np.array_equal(tokens.positions, exact.positions)
        small, _ = await encode(stub, png(300, 200), globalcom2(0.5), tensor_pb2.DATA_TYPE_INT8)
        step = np.abs(full).max(axis=1, keepdims=True) / 127
        assert (np.abs(small.features.to_float32() - full) <= step * 0.501).all()


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """Makes checkpoints whose features are large, by a factor on one layer's weights."""

    def make(factor):
        folder = tiny_checkpoint(tmp_path_factory.mktemp("scaled"))
        tensors = load_file(folder / "model.safetensors")
        (name,) = (name for name in tensors if "vision" in name and name.endswith("layers.1.mlp.fc2.weight"))
        tensors[name] *= factor
        save_file(tensors, folder / "model.safetensors")
        return folder

    return make


async def test_features_too_large_for_the_asked_type_are_the_callers_matter(scaled):
    async with running_encoder(scaled(1e6)) as (_, stub):
        request = EncodeRequest(image=Image(data=png(90, 90)), data_type=tensor_pb2.DATA_TYPE_FLOAT16)
        code, details, name = await status_of_call(stub.Encode(request))
        assert (code, name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidRequestError")
        assert details == "the image's features do not fit float16; ask for bfloat16 or float32"
        for data_type in (tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_BFLOAT16, tensor_pb2.DATA_TYPE_INT8):
            await encode(stub, png(90, 90), data_type=data_type)


async def test_features_that_are_no_numbers_are_the_services_fault(scaled):
    async with running_encoder(scaled(float("nan"))) as (_, stub):
        for data_type in tensor_pb2.DataType.values():
            request = EncodeRequest(image=Image(data=png(90, 90)), data_type=data_type)
            code, details, _ = await status_of_call(stub.Encode(request))
            assert code is grpc.StatusCode.INTERNAL
            assert details == "the vision tower's features or scores are not finite"


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"none", "uniform", "divprune", "cenprune", "cdpruner"}))
async def test_scores_that_are_no_numbers_are_the_services_fault(tmp_path, method):
    """Of the last layer only the scores are taken: its features are sound."""
    folder = tiny_checkpoint(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    for part in ("layers.3.self_attn.q_proj.bias", "layers.2.self_attn.q_proj.bias", "layers.0.self_attn.q_proj.bias"):
        (name,) = (name for name in tensors if "vision" in name and name.endswith(part))
        if method in ("fastervlm", "visionzip", "scope", "hired") or part.startswith("layers.3"):
            tensors[name][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    async with running_encoder(folder) as (_, stub):
        compression = vision_tokens_pb2.Compression(method=method, retention_ratio=0.5)
        request = EncodeRequest(image=Image(data=png(90, 90)), compression=compression)
        code, details, _ = await status_of_call(stub.Encode(request))
        assert (code, "not finite" in details) == (grpc.StatusCode.INTERNAL, True), details


async def test_many_callers_get_what_they_get_alone(model):
    limits = BatchLimits(max_batch_tiles=7, max_wait_seconds=0.005, max_queued_tiles=1000)
    async with running_encoder(model, batch=limits) as (_, stub):
        wanted = [(png(60 + 37 * n, 400 - 11 * n, n), globalcom2((0.1, 0.3, 0.6, 1.0)[n % 4])) for n in range(32)]
        alone = [await encode(stub, *each) for each in wanted]
        together = await asyncio.gather(*(encode(stub, *each) for each in wanted))
        for (one, _), (other, _) in zip(alone, together, strict=True):
            assert one.budgets == other.budgets
            assert np.array_equal(one.positions, other.positions)
            np.testing.assert_allclose(one.features.to_float32(), other.features.to_float32(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("request_", "message", "error"),
    [
        (EncodeRequest(), "image 0: the image has no data", "InvalidImageError"),
        (EncodeRequest(image=Image(data=b"GIF89a")), "image 0: ", "InvalidImageError"),
        (EncodeRequest(image=Image(data=png(90, 90)[:-600])), "image 0: ", "InvalidImageError"),
        (
            EncodeRequest(image=Image(data=png(1001, 1000))),
            "1001 x 1000 pixels, more than the 1000000",
            "InvalidImageError",
        ),
        (EncodeRequest(image=Image(data=png(9, 9)), data_type=77), "unknown data type 77", "UnknownFieldError"),
        *(
            (
                EncodeRequest(image=Image(data=png(9, 9)), compression=globalcom2(ratio)),
                "in \\(0, 1\\]",
                "InvalidCompressionError",
            )
            for ratio in (0, -1, 2, float("nan"))
        ),
        (
            EncodeRequest(image=Image(data=png(9, 9)), compression=globalcom2(0.5, layout=9)),
            "layout 9 is not known",
            "UnknownFieldError",
        ),
        (EncodeRequest.FromString(b"\xfa\x01\x01x"), "field 31 of visionsplit.v1.EncodeRequest", "UnknownFieldError"),
    ],
)
async def test_bad_requests_leave_the_service_unharmed(model, request_, message, error):
    async with running_encoder(model, image=ImageLimits(max_pixels=1_000_000)) as (_, stub):
        code, details, name = await status_of_call(stub.Encode(request_))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert name == error
        assert re.search(message, details)
        await encode(stub, png(50, 50))


async def test_extreme_strips_are_encoded(model):
    async with running_encoder(model) as (_, stub):
        for width, height in ((1, 1), (30000, 20), (20, 30000)):
            tokens, summary = await encode(stub, png(width, height), globalcom2(0.5))
            assert summary.budgets[0] == 8
            assert (tokens.grid.image_width, tokens.grid.image_height) == (width, height)


async def test_a_request_beyond_the_bound_is_refused(model):
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0, max_queued_tiles=9)
    async with running_encoder(model, batch=limits, llm="127.0.0.1:1") as (_, stub):
        request = GenerateRequest(images=[Image(data=png(200, 200))] * 2, prompt=generation_pb2.Prompt(text="x"))
        code, details, name = await status_of_call(stub.Generate(request))
        assert (code, name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OverloadedError")
        assert details == "the request's images make 10 tiles; this encoder's limit is 9"
        await encode(stub, png(200, 200))


async def test_an_encoder_without_room_for_one_image_does_not_start(model):
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0, max_queued_tiles=4)
    with pytest.raises(ConfigError, match="max_queued_tiles is 4; one image of this checkpoint takes 5"):
        await EncoderServer(EncoderConfig(str(model), listen="127.0.0.1:0", batch=limits)).start()


async def test_room_for_few_still_answers_many_in_the_end(model):
    """Those who are refused come again; nothing that was refused or answered keeps its room."""
    limits = BatchLimits(max_batch_tiles=4, max_wait_seconds=0, max_queued_tiles=12)

    async def until_answered(stub, data):
        refusals = 0
        while True:
            try:
                return await encode(stub, data), refusals
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                refusals += 1
                await asyncio.sleep(0.01 * refusals)

    async with running_encoder(model, batch=limits) as (_, stub):
        answers = await asyncio.gather(*(until_answered(stub, png(200, 200, seed)) for seed in range(16)))
        assert sum(refusals for _, refusals in answers)
        assert all(sum(tokens.budgets) == 80 for (tokens, _), _ in answers)


async def test_info_names_everything_a_request_may_name(model):
    async with running_encoder(model) as (_, stub):
        info = await stub.GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
        # What reads a text is named where there is a text tower: test_cdpruner_served.py.
        assert [choice.name for choice in info.methods] == [name for name in METHODS if name != "cdpruner"]
        parameters = {method.name: dict(method.parameters) for method in info.methods}
        assert (parameters["none"], parameters["globalcom2"]) == ({}, {"alpha": 0.5, "tau": 10.0})
        for listed, table in (
            (info.scores, [name for name in SCORES if name != "prompt_relevance"]),
            (info.budgets, BUDGETS),
            (info.selections, SELECTIONS),
            (info.mergings, MERGINGS),
        ):
            assert [choice.name for choice in listed] == list(table)
            assert all(choice.description for choice in listed)
        assert {(grid.rows, grid.columns) for grid in info.grids} == {(2, 2), (1, 2), (2, 1), (1, 3), (3, 1)}
        assert info.default_data_type == tensor_pb2.DATA_TYPE_FLOAT32
        assert len(info.format.encoder_fingerprint) == 32


async def test_health_turns_not_serving_and_calls_inside_finish(model):
    fake = FakeLlm()
    fake.may_answer.clear()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (server, stub):
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(check)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="hi")))
        await call.read()
        stopping = asyncio.create_task(server.stop(20))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, _, name = await status_of_call(stub.Encode(EncodeRequest(image=Image(data=png(9, 9)))))
        assert (code, name) == (grpc.StatusCode.UNAVAILABLE, "UnavailableError")
        await stub.GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
        fake.may_answer.set()
        assert (await call.read()).WhichOneof("event") == "delta"
        assert (await call.read()).WhichOneof("event") == "summary"
        assert await call.read() is grpc.aio.EOF
        await stopping
        await channel.close()


async def test_the_first_chunk_leaves_before_the_last_tile_is_encoded(model):
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0, max_queued_tiles=1000)
    async with running_encoder(model, batch=limits) as (_, stub):
        request = EncodeRequest(image=Image(data=png(200, 200)), compression=globalcom2(0.5))
        chunks, summary = [], None
        async for response in stub.Encode(request):
            if response.WhichOneof("event") == "tokens":
                tiles = np.frombuffer(response.tokens.positions, "<i4").reshape(-1, 3)[:, 0]
                chunks.append(sorted(set(tiles.tolist())))
            elif response.WhichOneof("event") == "summary":
                summary = response.summary
        assert chunks == [[0, 1], [2, 3], [4]]
        assert summary.timings.first_chunk_seconds < summary.timings.total_seconds


async def test_a_request_has_the_configured_time_to_arrive_and_no_less(model):
    request = EncodeRequest(image=Image(data=png(96, 96))).SerializeToString()
    half = len(request) // 2
    async with (
        running_encoder(model, receive_seconds=2.0) as (server, _),
        RawConnection(f"127.0.0.1:{server.port}") as raw,
    ):
        slow, silent = raw.open(ENCODE), raw.open(ENCODE)
        await raw.send(slow, prefix(len(request)) + request[:half])
        await raw.send(silent, prefix(len(request)) + request[:half])
        await asyncio.sleep(1)
        await raw.send(slow, request[half:])
        assert await raw.status(slow) == "0"
        assert await raw.status(silent) == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
