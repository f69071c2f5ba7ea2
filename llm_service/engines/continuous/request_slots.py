"""Admits requests to continuous batching: beside a turn, rows of the slab and a slot for seen tokens."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import ParamSpec

import torch
from visionsplit.serving.async_helpers import finish_despite_cancellation

from llm_service.config import EngineConfig
from llm_service.engines.admission import Admission, Place
from llm_service.engines.base import EngineRequest, ImageInput
from llm_service.engines.continuous.sampler import Sampler, SamplingRow
from llm_service.engines.continuous.slab import IdsExhaustedError, Run, SlabAllocator, VirtualEmbedding

P = ParamSpec("P")


@dataclass(kw_only=True)
class SlotPlace(Place):
    """The resources that a running request holds."""

    sampling: SamplingRow
    token_ids: list[int] = field(default_factory=list)  # virtual ids in place of image tokens
    runs: list[Run] = field(default_factory=list)


class SlotAdmission(Admission[SlotPlace]):
    """Gives each request rows of the slab for its images, and a slot for seen tokens if it has a repetition penalty."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        embedding: VirtualEmbedding,
        slab: SlabAllocator,
        sampler: Sampler,
        image_token_id: int,
        forget_ids: Callable[[], None],
    ) -> None:
        """`forget_ids` drops everything the engine has cached for virtual ids; it blocks."""
        super().__init__(config)
        self._embedding = embedding
        self._slab = slab
        self._sampler = sampler
        self._image_token_id = image_token_id
        self._forget_ids = forget_ids

    def _new_place(self, request: EngineRequest) -> SlotPlace:
        return SlotPlace(caller=request.caller, sampling=SamplingRow(request.sampling))

    def _empty(self, place: SlotPlace) -> None:
        for run in place.runs:
            self._slab.release(run)
        place.runs.clear()
        self._sampler.release_slot(place.sampling.slot)
        place.sampling = SamplingRow(place.sampling.options)

    async def _fill(self, request: EngineRequest, place: SlotPlace) -> None:
        """Take a counted request's resources, always in this order: rows, a slot for seen tokens.

        Waiting cannot deadlock. A request waits for the running count and for rows while it holds neither rows nor a
        slot, so the requests that hold them can always finish. It waits for a slot with its rows held, but there are as
        many slots as running requests, so a counted request finds one free. Whatever was taken before a cancellation is
        in `place`, from which `release` returns it.
        """
        place.runs = await self._rows_for(request.images)
        for run, image in zip(place.runs, request.images, strict=True):
            if not run.filled:
                await _to_thread(self._write, run, image.embed)
                run.filled = True
        place.token_ids = self._splice(request, place.runs)
        if request.sampling.repetition_penalty != 1:
            slot = await self._when_free(self._sampler.acquire_slot)
            place.sampling = SamplingRow(request.sampling, slot)
            await _to_thread(self._sampler.note_prompt, slot, list(request.token_ids))

    async def _rows_for(self, images: tuple[ImageInput, ...]) -> list[Run]:
        """Reserve rows for all images at once: a request that waits here holds no rows, so it blocks no other one."""
        wanted = [(image.key, image.num_tokens) for image in images]
        try:
            return await self._when_free(lambda: self._slab.place(wanted))
        except IdsExhaustedError:
            # Numbering restarts at the first virtual id. Before an id is used for a second image, no running request
            # may use it, and the engine has to forget the keys and values that it cached for it.
            await self._when_free(lambda: None if self._slab.in_use else True)
            await _to_thread(self._forget_ids)
            self._slab.restart()
            return await self._when_free(lambda: self._slab.place(wanted))

    def _write(self, run: Run, embed: Callable[[], torch.Tensor]) -> None:
        embeddings = embed()
        if embeddings.device.type == "cuda":
            # The engine computes on other CUDA streams. Its steps must have ended before the rows change, and the rows
            # must have been written before its next step reads them.
            torch.cuda.synchronize(embeddings.device)
        self._embedding.write(run.first_id, embeddings)
        if embeddings.device.type == "cuda":
            torch.cuda.synchronize(embeddings.device)

    def _splice(self, request: EngineRequest, rows: list[Run]) -> list[int]:
        """The prompt with the virtual ids of the images' rows in place of image tokens."""
        spliced: list[int] = []
        virtual = chain.from_iterable(run.ids for run in rows)
        lengths = (run.num_tokens for run in request.runs)
        for token_id in request.token_ids:
            if token_id == self._image_token_id:
                spliced.extend(islice(virtual, next(lengths)))
            else:
                spliced.append(token_id)
        return spliced


async def _to_thread(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run in a thread and wait for its end even if cancelled: its target must not be reassigned while it writes."""
    await finish_despite_cancellation(asyncio.to_thread(function, *args, **kwargs))
