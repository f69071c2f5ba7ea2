"""The two services on this machine's loopback, and Hugging Face's whole model to compare them with."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from visionsplit_client import AsyncClient, ClientSecurity

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import LlmConfig
from llm_service.server import LlmServer


@dataclass(frozen=True)
class System:
    client: AsyncClient
    encoder: EncoderServer
    llm: LlmServer
    encoder_address: str
    llm_address: str


@asynccontextmanager
async def running_system(
    checkpoint: Path,
    *,
    encoder: dict[str, Any] | None = None,
    llm: dict[str, Any] | None = None,
    security: ClientSecurity | None = None,
) -> AsyncIterator[System]:
    """Both services in this process, talking over real sockets, in float32 on the CPU, else with default settings."""
    llm_config = replace(LlmConfig(model=str(checkpoint), listen="127.0.0.1:0", device="cpu"), **(llm or {}))
    llm_server = LlmServer(llm_config)
    llm_address = f"127.0.0.1:{await llm_server.start()}"
    try:
        encoder_config = EncoderConfig(
            model=str(checkpoint),
            listen="127.0.0.1:0",
            llm=(llm_address,),
            device="cpu",
        )
        encoder_server = EncoderServer(replace(encoder_config, **(encoder or {})))
        encoder_address = f"127.0.0.1:{await encoder_server.start()}"
        try:
            async with AsyncClient(encoder_address, llm=llm_address, security=security or ClientSecurity()) as client:
                yield System(client, encoder_server, llm_server, encoder_address, llm_address)
        finally:
            await encoder_server.stop(grace=5)
    finally:
        await llm_server.stop(grace=5)


class WholeModel:
    """`LlavaNextForConditionalGeneration` on the same checkpoint: what the two halves must equal."""

    def __init__(self, checkpoint: Path) -> None:
        self.processor = LlavaNextProcessor.from_pretrained(checkpoint)
        self.model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> tuple[int, ...]:
        """The generated token ids of a finished prompt, decoded greedily."""
        inputs = self.processor(images=list(images) or None, text=prompt, return_tensors="pt").to(self.model.device)
        return self._continue(inputs, max_new_tokens)

    def chat(
        self, images: Sequence[Image.Image], messages: list[dict[str, Any]], max_new_tokens: int
    ) -> tuple[int, ...]:
        """The same for a conversation, by the processor's own chat template."""
        pictures = iter(images)
        turns = [
            {
                "role": turn["role"],
                "content": [
                    {"type": "image", "image": next(pictures)} if part["type"] == "image" else part
                    for part in turn["content"]
                ],
            }
            for turn in messages
        ]
        inputs = self.processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)
        return self._continue(inputs, max_new_tokens)

    def _continue(self, inputs: Any, max_new_tokens: int) -> tuple[int, ...]:
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())
