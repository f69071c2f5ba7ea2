"""Admits requests to the engine: a turn in the queue, rows of the slab, and a slot for seen tokens."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from visionsplit.errors import OverloadedError
from visionsplit.serving.async_helpers import finish_despite_cancellation
from visionsplit.serving.fairness import Claim, FairGate
from visionsplit.serving.overload import ServiceRate

from llm_service.engines.base import EngineRequest, ImageInput
from llm_service.engines.continuous.sampler import Sampler, SamplingRow
from llm_service.engines.continuous.slab import IdsExhaustedError, Run, SlabAllocator, VirtualEmbedding

_UNBOUNDED = 2**31
T = TypeVar("T")
P = ParamSpec("P")


@dataclass
class Place:
    """The resources that a running request holds."""

    caller: str
    token_ids: list[int]  # virtual ids in place of image tokens
    sampling: SamplingRow
    runs: list[Run] = field(default_factory=list)
    counted: bool = False  # whether the request counts among all running ones
    counted_of_caller: bool = False  # whether it counts among its caller's running ones


class Admission:
    """Admits requests one at a time; callers take turns, and each caller's requests keep their order.

    Requests with images have a separate queue, so that text does not wait behind an image that waits for rows.
    """

    def __init__(
        self,
        *,
        embedding: VirtualEmbedding,
        slab: SlabAllocator,
        sampler: Sampler,
        image_token_id: int,
        max_running: int,
        max_running_of_caller: int,
        max_waiting: int,
        forget_ids: Callable[[], None],
    ) -> None:
        """`forget_ids` drops everything the engine has cached for virtual ids; it blocks."""
        self._embedding = embedding
        self._slab = slab
        self._sampler = sampler
        self._image_token_id = image_token_id
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._forget_ids = forget_ids
        self._running = 0
        self._waiting = 0
        self._rate = ServiceRate()
        # This gate comes before the turns: a request that waits for others of its caller must hold no turn meanwhile.
        self._own_turn = FairGate(_UNBOUNDED, own_places=max_running_of_caller)
        self._text_turn = FairGate()
        self._image_turn = FairGate()
        self._released = asyncio.Event()

    async def admit(self, request: EngineRequest) -> Place:
        """Wait until the request may run, and take its resources.

        Raises:
            OverloadedError: too many requests are waiting already.
        """
        if self._waiting >= self._max_waiting:
            later = self._rate.retry_after(1)
            raise OverloadedError(f"{self._waiting} requests are waiting for a replica already", later)
        self._waiting += 1
        place = Place(request.caller, [], SamplingRow(request.sampling))
        try:
            await self._own_turn.enter(Claim(request.caller))
            place.counted_of_caller = True
            turn = self._image_turn if request.images else self._text_turn
            async with turn.place(request.caller):
                await self._take(request, place)
        except BaseException:
            self.release(place)
            raise
        finally:
            self._waiting -= 1
        return place

    def release(self, place: Place) -> None:
        """Return everything a place holds. Call only when no engine step can touch its rows or its slot any more."""
        if place.counted:
            self._rate.record(1, busy=self._waiting > 0)
            self._running -= 1
        place.counted = False
        if place.counted_of_caller:
            place.counted_of_caller = False
            self._own_turn.leave(place.caller)
        for run in place.runs:
            self._slab.release(run)
        place.runs.clear()
        self._sampler.release_slot(place.sampling.slot)
        place.sampling = SamplingRow(place.sampling.options)
        self._released.set()

    async def _take(self, request: EngineRequest, place: Place) -> None:
        """Take a running request's resources, always in this order: the running count, rows, a slot for seen tokens.

        Waiting cannot deadlock. A request waits for the running count and for rows while it holds neither rows nor a
        slot, so the requests that hold them can always finish. It waits for a slot with its rows held, but there are as
        many slots as running requests, so a counted request finds one free. Whatever was taken before a cancellation is
        in `place`, from which `release` returns it.
        """
        await self._when_free(lambda: True if self._running < self._max_running else None)
        self._running += 1
        place.counted = True
        place.runs = await self._rows_for(request.images)
        for run, image in zip(place.runs, request.images, strict=True):
            if not run.filled:
                await _to_thread(self._fill, run, image.embed)
                run.filled = True
        place.token_ids = self._splice(request.token_ids, place.runs)
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

    async def _when_free(self, take: Callable[[], T | None]) -> T:
        while (taken := take()) is None:
            self._released.clear()
            await self._released.wait()
        return taken

    def _fill(self, run: Run, embed: Callable[[], torch.Tensor]) -> None:
        embeddings = embed()
        if embeddings.device.type == "cuda":
            # The engine computes on other CUDA streams. Its steps must have ended before the rows change, and the rows
            # must have been written before its next step reads them.
            torch.cuda.synchronize(embeddings.device)
        self._embedding.write(run.first_id, embeddings)
        if embeddings.device.type == "cuda":
            torch.cuda.synchronize(embeddings.device)

    def _splice(self, token_ids: tuple[int, ...], runs: list[Run]) -> list[int]:
        spliced: list[int] = []
        images = iter(runs)
        for token_id in token_ids:
            if token_id == self._image_token_id:
                spliced.extend(next(images).ids)
            else:
                spliced.append(token_id)
        return spliced


async def _to_thread(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run in a thread and wait for its end even if cancelled: its target must not be reassigned while it writes."""
    await finish_despite_cancellation(asyncio.to_thread(function, *args, **kwargs))
