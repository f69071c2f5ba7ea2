"""EncoderService.Generate: the upload to the LLM service, and its answer or its refusal on the way back."""

import asyncio
import logging
import re

import grpc
import grpc.aio
import pytest
from visionsplit.errors import (
    CancelledError,
    DeadlineError,
    InvalidSamplingError,
    InvalidTokensError,
    PromptTooLongError,
    UnavailableError,
    UnknownFieldError,
)
from visionsplit.v1 import encoder_service_pb2, generation_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto

from encoder_service.config import BatchLimits
from tests.unit.encoder.helpers import FakeLlm, globalcom2, png, running_encoder, running_llm, status_of_call

GenerateRequest = encoder_service_pb2.EncoderServiceGenerateRequest
Image = encoder_service_pb2.Image


@pytest.fixture
def model(random_checkpoints):
    return random_checkpoints["llama"]


async def generate(stub, request, **options):
    return [response async for response in stub.Generate(request, **options)]


async def test_generate_uploads_and_relays(model):
    fake = FakeLlm()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        request = GenerateRequest(
            images=[Image(data=png(200, 200, 1)), Image(data=png(300, 90, 2))],
            prompt=generation_pb2.Prompt(text="<image><image>compare"),
            sampling=generation_pb2.Sampling(max_new_tokens=5),
            compression=globalcom2(0.5, layout=vision_tokens_pb2.LAYOUT_REFERENCE),
            data_type=tensor_pb2.DATA_TYPE_INT8,
        )
        responses = await generate(stub, request, metadata=(("x-request-id", "abc"),), timeout=30)
        events = [response.WhichOneof("event") for response in responses]
        assert events == ["image", "image", "delta", "delta", "summary"]
        assert "".join(response.delta.text for response in responses) == "one two"
        assert fake.metadata["x-request-id"] == "abc"
        assert 0 < fake.time_remaining < 31  # gRPC rounds a deadline up
        (header,) = fake.parts("header")
        assert header.prompt == request.prompt
        assert header.sampling == request.sampling
        assert header.layout == vision_tokens_pb2.LAYOUT_REFERENCE
        received = 0
        for image in fake.parts("image"):
            grid = grid_from_proto(header.grids[image.image_index])
            assembler = TokenAssembler(grid, image, feature_size=header.format.feature_size)
            for chunk in fake.parts("tokens"):
                if chunk.image_index == image.image_index:
                    assembler.add(chunk)
            received += assembler.finish().num_bytes
        assert received == sum(response.image.wire_bytes for response in responses)


async def test_generate_with_text_alone(model):
    fake = FakeLlm()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        responses = await generate(stub, GenerateRequest(prompt=generation_pb2.Prompt(text="hi")))
        assert [response.WhichOneof("event") for response in responses] == ["delta", "delta", "summary"]
        assert not fake.parts("tokens")


@pytest.mark.parametrize("error_after", [0, 1, 2, 3])
async def test_an_early_refusal_comes_through_as_what_it_is(model, error_after):
    """However many messages are still on their way when the LLM service says no."""
    fake = FakeLlm(PromptTooLongError("4096 tokens do not fit"), error_after)
    limits = BatchLimits(max_batch_tiles=1, max_wait_seconds=0, max_queued_tiles=1000)
    async with running_llm(fake) as address, running_encoder(model, llm=address, batch=limits) as (_, stub):
        images = [Image(data=png(200, 200, seed)) for seed in range(8)]
        for _ in range(5):
            fake.received.clear()
            call = stub.Generate(GenerateRequest(images=images, prompt=generation_pb2.Prompt(text="x")))
            code, details, name = await status_of_call(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details == "4096 tokens do not fit"
            assert name == "PromptTooLongError"


async def test_a_refusal_while_an_image_is_being_reported_reaches_the_caller(model):
    """The last of an image's tokens is refused at the moment at which the caller is told that the image is done."""
    fake = FakeLlm(PromptTooLongError("4096 tokens do not fit"), 3)  # header, image, tokens
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        request = GenerateRequest(images=[Image(data=png(112, 112))], prompt=generation_pb2.Prompt(text="x"))
        for _ in range(150):
            fake.received.clear()
            code, _, name = await status_of_call(stub.Generate(request, timeout=20))
            assert (code, name) == (grpc.StatusCode.INVALID_ARGUMENT, "PromptTooLongError")


async def test_a_lost_replica_keeps_its_class(model):
    fake = FakeLlm(UnavailableError("the replica was lost"), 1)
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="x")))
        assert await status_of_call(call) == (grpc.StatusCode.UNAVAILABLE, "the replica was lost", "UnavailableError")


@pytest.mark.parametrize(
    ("error", "code", "name"),
    [
        (InvalidSamplingError("top_p is 7"), grpc.StatusCode.INVALID_ARGUMENT, "InvalidSamplingError"),
        (InvalidTokensError("image 0: no"), grpc.StatusCode.INTERNAL, "InternalError"),
        (UnknownFieldError("field 99"), grpc.StatusCode.FAILED_PRECONDITION, "IncompatibleServicesError"),
        (DeadlineError("nothing more came"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OverloadedError"),
        (CancelledError("gone"), grpc.StatusCode.UNAVAILABLE, "UnavailableError"),
    ],
)
async def test_only_what_the_caller_wrote_is_the_callers_fault(model, error, code, name):
    """The LLM service blames its client, the encoder; the encoder knows what of a request it made itself."""
    fake = FakeLlm(error, 3)
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        request = GenerateRequest(images=[Image(data=png(112, 112))], prompt=generation_pb2.Prompt(text="x"))
        assert (await status_of_call(stub.Generate(request, timeout=20)))[::2] == (code, name)


@pytest.mark.parametrize(
    ("said", "code", "name"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, "InternalError"),
        (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INTERNAL, "InternalError"),
        (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.FAILED_PRECONDITION, "IncompatibleServicesError"),
        (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE, "UnavailableError"),
    ],
)
async def test_what_something_between_the_services_says_is_no_fault_of_the_caller(model, said, code, name):
    """A proxy, or gRPC itself: the status does not name one of our errors."""

    class Between(FakeLlm):
        async def Generate(self, request_iterator, context):  # noqa: N802
            await context.abort(said, "10.0.0.7 says no")

    async with running_llm(Between()) as address, running_encoder(model, llm=address) as (_, stub):
        request = GenerateRequest(prompt=generation_pb2.Prompt(text="x"))
        got, details, named = await status_of_call(stub.Generate(request, timeout=20))
        assert (got, named) == (code, name)
        assert "10.0.0.7" not in details


async def test_no_llm_service_behind_the_address(model):
    async with running_encoder(model, llm="127.0.0.1:1") as (_, stub):
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="x")))
        code, details, name = await status_of_call(call)
        assert (code, name) == (grpc.StatusCode.UNAVAILABLE, "UnavailableError")
        assert "127.0.0.1" not in details


async def test_no_llm_service_configured(model):
    async with running_encoder(model) as (_, stub):
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="x")))
        code, _, name = await status_of_call(call)
        assert (code, name) == (grpc.StatusCode.FAILED_PRECONDITION, "IncompatibleServicesError")


async def test_too_many_images(model):
    async with running_encoder(model, max_images=2) as (_, stub):
        call = stub.Generate(GenerateRequest(images=[Image(data=png(9, 9))] * 3))
        code, details, _ = await status_of_call(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details == "3 images; a request may have 2"


async def test_a_cancelled_call_cancels_the_llm_call(model):
    fake = FakeLlm()
    fake.may_answer.clear()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="x")))
        await call.read()
        call.cancel()
        await asyncio.wait_for(fake.cancelled.wait(), 10)


async def test_a_deadline_ends_the_call_and_the_llm_call(model):
    fake = FakeLlm()
    fake.may_answer.clear()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        call = stub.Generate(GenerateRequest(prompt=generation_pb2.Prompt(text="x")), timeout=1)
        code, _, _ = await status_of_call(call)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(fake.cancelled.wait(), 10)


async def test_every_call_leaves_one_line_in_the_log(model, caplog):
    """With its id and its end, and never the prompt."""
    fake = FakeLlm()
    async with running_llm(fake) as address, running_encoder(model, llm=address) as (_, stub):
        with caplog.at_level(logging.INFO, "encoder_service"):
            image, prompt = Image(data=png(50, 50)), generation_pb2.Prompt(text="my secret <image>")
            named = {"metadata": (("x-request-id", "good"),)}
            await generate(stub, GenerateRequest(images=[image], prompt=prompt), **named)
            named = {"metadata": (("x-request-id", "bad"),)}
            await status_of_call(stub.Generate(GenerateRequest(images=[Image()], prompt=prompt), **named))
            fake.error = PromptTooLongError("4096 tokens do not fit")
            named = {"metadata": (("x-request-id", "long"),)}
            await status_of_call(stub.Generate(GenerateRequest(prompt=prompt), **named))
            fake.error = None
            fake.may_answer.clear()
            call = stub.Generate(GenerateRequest(prompt=prompt), metadata=(("x-request-id", "gone"),))
            await call.read()
            call.cancel()
            await asyncio.wait_for(fake.cancelled.wait(), 10)
    lines = [record.getMessage() for record in caplog.records if record.name == "encoder_service.api.service"]
    assert [re.sub(r"\d+\.\d+ s", "T", line) for line in lines] == [
        "request good after T: done",
        "request bad after T: failed, InvalidImageError: image 0: the image has no data",
        "request long after T: failed, PromptTooLongError: 4096 tokens do not fit",
        "request gone after T: given up by the caller",
    ]
    assert "secret" not in caplog.text
