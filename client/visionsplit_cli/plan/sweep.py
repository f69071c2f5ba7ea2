"""Measures each half alone at every ratio."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from visionsplit_client import AsyncClient, ClientSecurity, Compression, EncoderInfo, LlmInfo, Sampling

from visionsplit_cli.plan.groups import Prices, RatioPlan, group_for
from visionsplit_cli.plan.images import InputImages
from visionsplit_cli.plan.measuring import RETRIES, Answering, Effort, EncoderMeter, Encoding, LlmMeter


@dataclass(frozen=True)
class SweepRequest:
    """What to measure."""

    ratios: tuple[float, ...]  # the largest first
    compression: Compression  # at ratios below 1, without the ratio
    prompt: str
    sampling: Sampling
    effort: Effort
    timeout: float  # seconds, of a call

    def compression_at(self, ratio: float) -> Compression:
        """The compression at a ratio. Ratio 1 keeps everything, so no method is measured."""
        return Compression.none() if ratio == 1 else replace(self.compression, retention_ratio=ratio)


class Services(Protocol):
    """Where both halves are. Each is entered alone; one that runs only for this then has the machine to itself."""

    @property
    def security(self) -> ClientSecurity: ...

    def check(self, request: SweepRequest) -> None:
        """Raises VisionSplitError for what can be known to fail before anything is measured."""

    def encoders(self) -> AbstractContextManager[Sequence[str]]:
        """Addresses of equal encoder services."""

    def llm(self) -> AbstractContextManager[str]:
        """Address of the LLM service."""


@dataclass(frozen=True)
class SweepResult:
    """The plan for each ratio, and the services that were measured."""

    plans: list[RatioPlan]  # in the order of the ratios
    encoder: EncoderInfo
    llm: LlmInfo


def sweep(
    services: Services, request: SweepRequest, images: InputImages, prices: Prices, note: Callable[[str], None]
) -> SweepResult:
    """Both halves at every ratio: the encoder first, whose tokens the language model is then asked about.

    Args:
        prices: by which groups are put together.
        note: called with a line at each step.

    Raises:
        VisionSplitError: a service does not start, cannot be reached, or refuses.
    """
    services.check(request)
    with services.encoders() as addresses:
        encoded, encoder = asyncio.run(_encode(addresses, services.security, request, images, note))
    with services.llm() as address:
        answered, llm = asyncio.run(_answer(address, services.security, request, encoded, note))
    return SweepResult(
        [_plan(request, ratio, encoded[ratio], answered[ratio], prices) for ratio in request.ratios], encoder, llm
    )


def _plan(request: SweepRequest, ratio: float, encoding: Encoding, answering: Answering, prices: Prices) -> RatioPlan:
    return RatioPlan(
        ratio,
        request.compression_at(ratio).method,
        encoding.rate,
        answering.rate,
        answering.vision_tokens,
        answering.prompt_tokens,
        answering.generated_tokens,
        group_for(encoding.rate.per_second, answering.rate.per_second, prices),
    )


async def _encode(
    addresses: Sequence[str],
    security: ClientSecurity,
    request: SweepRequest,
    images: InputImages,
    note: Callable[[str], None],
) -> tuple[dict[float, Encoding], EncoderInfo]:
    async with AsyncClient(addresses, retries=RETRIES, timeout=request.timeout, security=security) as client:
        meter = EncoderMeter(client, images, request.effort, services=len(addresses))
        for ratio in request.ratios:
            await meter.check(request.compression_at(ratio))  # a wrong last one would be found late
        found = {}
        for ratio in request.ratios:
            note(f"measuring the encoder with {percent(ratio)} of the tokens")
            found[ratio] = await meter.measure(request.compression_at(ratio))
        return found, await client.encoder_info()


async def _answer(
    address: str,
    security: ClientSecurity,
    request: SweepRequest,
    encoded: dict[float, Encoding],
    note: Callable[[str], None],
) -> tuple[dict[float, Answering], LlmInfo]:
    async with AsyncClient(llm=address, retries=RETRIES, timeout=request.timeout, security=security) as client:
        info = await client.llm_info()
        meter = LlmMeter(client, request.prompt, request.sampling, request.effort, replicas=max(info.replicas, 1))
        found = {}
        for ratio in request.ratios:
            note(f"measuring the language model with {percent(ratio)} of the tokens")
            found[ratio] = await meter.measure(encoded[ratio].images)
        return found, info


def percent(ratio: float) -> str:
    """Such as 50%, or 12.5%."""
    return f"{100 * ratio:.6g}%"
