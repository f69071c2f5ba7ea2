"""Measures each half alone at every ratio."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from visionsplit_client import AsyncClient, ClientSecurity, Compression, EncoderInfo, LlmInfo, Sampling

from visionsplit_cli.plan.measuring import RETRIES, Answering, Effort, EncoderMeter, Encoding, LlmMeter
from visionsplit_cli.plan.pictures import Pictures
from visionsplit_cli.plan.shapes import Prices, RatioPlan, group_for


@dataclass(frozen=True)
class Wanted:
    """What is to be measured."""

    ratios: tuple[float, ...]  # the largest first
    compression: Compression  # at ratios below 1, without the ratio
    prompt: str
    sampling: Sampling
    effort: Effort
    timeout: float  # seconds, of a call

    def compression_at(self, ratio: float) -> Compression:
        """What is asked for at a ratio; at 1 there is nothing to choose, so no method is measured."""
        return Compression.none() if ratio == 1 else replace(self.compression, retention_ratio=ratio)


class Services(Protocol):
    """Where both halves are. Each is entered alone; one that runs only for this then has the machine to itself."""

    @property
    def security(self) -> ClientSecurity: ...

    def check(self, wanted: Wanted) -> None:
        """Raises VisionSplitError for what can be known to fail before anything is measured."""

    def encoders(self) -> AbstractContextManager[Sequence[str]]:
        """Addresses of equal encoder services."""

    def llm(self) -> AbstractContextManager[str]:
        """Address of the LLM service."""


@dataclass(frozen=True)
class Swept:
    """What was found."""

    plans: list[RatioPlan]  # in the order of the ratios
    encoder: EncoderInfo
    llm: LlmInfo


def sweep(services: Services, wanted: Wanted, pictures: Pictures, prices: Prices, note: Callable[[str], None]) -> Swept:
    """Both halves at every ratio: the encoder first, whose tokens the language model is then asked about.

    Args:
        prices: by which groups are put together.
        note: told of each step.

    Raises:
        VisionSplitError: a service does not start, cannot be reached, or refuses.
    """
    services.check(wanted)
    with services.encoders() as addresses:
        encoded, encoder = asyncio.run(_encode(addresses, services.security, wanted, pictures, note))
    with services.llm() as address:
        answered, llm = asyncio.run(_answer(address, services.security, wanted, encoded, note))
    return Swept(
        [_plan(wanted, ratio, encoded[ratio], answered[ratio], prices) for ratio in wanted.ratios], encoder, llm
    )


def _plan(wanted: Wanted, ratio: float, encoding: Encoding, answering: Answering, prices: Prices) -> RatioPlan:
    return RatioPlan(
        ratio,
        wanted.compression_at(ratio).method,
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
    wanted: Wanted,
    pictures: Pictures,
    note: Callable[[str], None],
) -> tuple[dict[float, Encoding], EncoderInfo]:
    async with AsyncClient(addresses, retries=RETRIES, timeout=wanted.timeout, security=security) as client:
        meter = EncoderMeter(client, pictures, wanted.effort, services=len(addresses))
        for ratio in wanted.ratios:
            await meter.check(wanted.compression_at(ratio))  # a wrong last one would be found late
        found = {}
        for ratio in wanted.ratios:
            note(f"measuring the encoder with {percent(ratio)} of the tokens")
            found[ratio] = await meter.measure(wanted.compression_at(ratio))
        return found, await client.encoder_info()


async def _answer(
    address: str,
    security: ClientSecurity,
    wanted: Wanted,
    encoded: dict[float, Encoding],
    note: Callable[[str], None],
) -> tuple[dict[float, Answering], LlmInfo]:
    async with AsyncClient(llm=address, retries=RETRIES, timeout=wanted.timeout, security=security) as client:
        info = await client.llm_info()
        meter = LlmMeter(client, wanted.prompt, wanted.sampling, wanted.effort, replicas=max(info.replicas, 1))
        found = {}
        for ratio in wanted.ratios:
            note(f"measuring the language model with {percent(ratio)} of the tokens")
            found[ratio] = await meter.measure(encoded[ratio].images)
        return found, info


def percent(ratio: float) -> str:
    """Such as 50%, or 12.5%."""
    return f"{100 * ratio:.6g}%"
