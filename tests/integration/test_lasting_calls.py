"""Long calls do not make a service refuse others, which have deadlines and default settings."""

import asyncio
import itertools
from pathlib import Path

import grpc.aio
from visionsplit.v1 import (
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    generation_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
)
from visionsplit_client import Prompt, Sampling

from tests.integration.system import running_system
from tests.noise import noise_image
from tests.unit.encoder.helpers import png

PROMPT = Prompt.raw("USER: <image>\nWhat? ASSISTANT:")
EACH = 6
HEADER = llm_service_pb2.GenerateHeader(prompt={"text": "hi"}, sampling={"max_new_tokens": 2})


async def test_slow_readers_long_answers_and_silent_uploads_leave_an_idle_service_idle(
    random_checkpoints: dict[str, Path],
) -> None:
    async with running_system(random_checkpoints["llama"]) as system:

        async def works(deadline: float, seed: int) -> None:
            image = noise_image(112, 112, seed)
            sampling = Sampling(max_new_tokens=2)
            assert (
                len((await system.client.generate(image, PROMPT, sampling=sampling, timeout=deadline)).token_ids) == 2
            )
            encoded = await system.client.encode(noise_image(112, 112, 1000 + seed), timeout=deadline)
            answer = await system.client.generate_from_tokens(encoded, PROMPT, sampling=sampling, timeout=deadline)
            assert len(answer.token_ids) == 2

        await works(30.0, 0)
        async with (
            grpc.aio.insecure_channel(system.encoder_address) as encoder_channel,
            grpc.aio.insecure_channel(system.llm_address) as llm_channel,
        ):
            encoder = encoder_service_pb2_grpc.EncoderServiceStub(encoder_channel)
            llm = llm_service_pb2_grpc.LlmServiceStub(llm_channel)
            prompt = generation_pb2.Prompt(text="Go on")
            sampling = generation_pb2.Sampling(max_new_tokens=700)
            lasting = [
                encoder.Generate(encoder_service_pb2.EncoderServiceGenerateRequest(prompt=prompt, sampling=sampling))
                for _ in range(EACH)
            ]
            lasting += [
                encoder.Encode(encoder_service_pb2.EncodeRequest(image={"data": png(112, 112, seed)}))
                for seed in range(EACH)
            ]
            for call in lasting:
                await call.read()
            uploads = [llm.Generate() for _ in range(2 * EACH)]
            for upload in uploads[:EACH]:
                await upload.write(llm_service_pb2.LlmServiceGenerateRequest(header=HEADER))
            for round_, deadline in itertools.product(range(2), (3.0, 20.0)):
                await works(deadline, 1 + 10 * round_ + int(deadline))
                await asyncio.sleep(1.5)
            for unfinished in (*lasting, *uploads):
                unfinished.cancel()
