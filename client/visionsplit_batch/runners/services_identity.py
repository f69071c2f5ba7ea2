"""Asks services what they run."""

import asyncio
from collections.abc import Sequence

import visionsplit
from visionsplit_client import AsyncClient, ClientSecurity, EncoderInfo, IncompatibleServicesError, LlmInfo, Retries

from visionsplit_batch.runners.base import RunnerIdentity, Work


async def identify(
    work: Work, encoders: Sequence[str], llm: str | None, *, security: ClientSecurity, retries: Retries
) -> RunnerIdentity:
    """What all of the services together are.

    Raises:
        IncompatibleServicesError: they do not belong together, or are not what they are taken for.
        UnavailableError, UnauthenticatedError: one of them does not answer.
    """

    async def encoder_at(address: str) -> EncoderInfo:
        async with AsyncClient(address, retries=retries, security=security) as client:
            return await client.encoder_info()

    async def llm_at(address: str) -> LlmInfo:
        async with AsyncClient(llm=address, retries=retries, security=security) as client:
            return await client.llm_info()

    infos = await asyncio.gather(*(encoder_at(address) for address in encoders)) if work.kind != "ask" else []
    language = await llm_at(llm) if llm is not None else None
    kinds = [(info.model, info.format, info.default_compression, info.default_data_type) for info in infos]
    if any(kind != kinds[0] for kind in kinds):
        raise IncompatibleServicesError("the encoder services differ in their model or their defaults")
    if infos and language is not None and infos[0].format != language.format:
        raise IncompatibleServicesError("the LLM service expects the tokens of another vision tower or image processor")
    versions = {"visionsplit": visionsplit.__version__}
    if language is not None:
        versions["llm"] = language.version
    llm_model = None if language is None else language.model
    if not infos:
        fingerprint = None if language is None else language.format.encoder_fingerprint
        return RunnerIdentity(None, fingerprint, None, None, llm_model, versions)
    info = infos[0]
    versions["encoder"] = ", ".join(sorted({one.version for one in infos}))
    return RunnerIdentity(
        info.model,
        info.format.encoder_fingerprint,
        work.compression or info.default_compression,
        work.data_type or info.default_data_type,
        llm_model,
        versions,
    )
