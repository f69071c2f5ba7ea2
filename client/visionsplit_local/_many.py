"""Many requests at one time, in bounds that the services' limits on tiles, calls and tokens leave room for."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from visionsplit_client import (
    CancelledError,
    Client,
    Compression,
    DataTypeName,
    EncodedImage,
    EventStream,
    Finished,
    Generation,
    GenerationEvent,
    ImageSource,
    Message,
    PositionIds,
    Prompt,
    Pruning,
    Sampling,
    VisionSplitError,
)

# The most that run at one time. The engine decodes 64 requests together; while it does, the next ones are encoded. This
# number of images fits the encoder's queue of tiles, and their tokens fit the LLM service's memory for uploads.
_MAX_REQUESTS = 96
_MAX_IMAGES = 128

Outcome = Generation | VisionSplitError | OSError


@dataclass(frozen=True)
class Request:
    """One of many requests. The fields are the arguments of `generate`, or of `generate_from_tokens`."""

    images: ImageSource | Sequence[ImageSource] | EncodedImage | Sequence[EncodedImage] | None
    prompt: str | Prompt | None = None
    messages: Sequence[Message | Mapping[str, Any]] | None = None
    compression: Compression | None = None  # of images that are not encoded yet
    data_type: DataTypeName | None = None  # as `compression`
    pruning: Pruning | None = None
    position_ids: PositionIds | None = None
    sampling: Sampling | None = None

    @property
    def num_images(self) -> int:
        if self.images is None:
            return 0
        return len(self.images) if isinstance(self.images, list | tuple) else 1

    def stream(self, client: Client) -> EventStream[GenerationEvent, Finished]:
        """Start the request.

        Raises:
            ValueError: a compression or data type for images that are encoded already.
        """
        options: dict[str, Any] = {
            "messages": self.messages,
            "pruning": self.pruning,
            "position_ids": self.position_ids,
            "sampling": self.sampling,
        }
        first = self.images[0] if isinstance(self.images, list | tuple) and self.images else self.images
        if not isinstance(first, EncodedImage):
            options |= {"compression": self.compression, "data_type": self.data_type}
            return client.stream(self.images, self.prompt, **options)  # type: ignore[arg-type]
        if self.compression is not None or self.data_type is not None:
            raise ValueError("images that are encoded already have their compression and their data type")
        return client.stream_from_tokens(self.images, self.prompt, **options)  # type: ignore[arg-type]


def answer_all(client: Client, requests: Sequence[Request], *, return_errors: bool) -> list[Any]:
    """See `VisionSplit.generate_many`."""
    batch = _Batch(client)
    with ThreadPoolExecutor(_MAX_REQUESTS, thread_name_prefix="visionsplit-request") as pool:
        answer = batch.outcome if return_errors else batch.answer
        futures: list[Future[Outcome]] = []
        try:
            futures = [pool.submit(answer, request) for request in requests]
            wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first_error(futures)
        finally:
            # Also where the user interrupts: nothing of the batch may go on.
            batch.stop()
            pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


def _raise_first_error(futures: Sequence[Future[Outcome]]) -> None:
    for number, future in enumerate(futures):
        if future.done() and (error := future.exception()) is not None:
            error.add_note(f"of request {number} of {len(futures)}")
            raise error


class _Batch:
    """The requests of one batch that run. Used by many threads."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._images = 0
        self._running: set[EventStream[GenerationEvent, Finished]] = set()
        self._stopped = False

    def stop(self) -> None:
        """Cancel what runs and what waits; has no effect if all is done."""
        with self._changed:
            self._stopped = True
            for stream in self._running:
                stream.close()
            self._changed.notify_all()

    def outcome(self, request: Request) -> Outcome:
        """The answer, or why there is none."""
        try:
            return self.answer(request)
        except (VisionSplitError, OSError) as error:
            return error

    def answer(self, request: Request) -> Generation:
        with self._room(request.num_images), request.stream(self._client) as stream, self._registered(stream):
            return stream.result().generation

    @contextmanager
    def _room(self, images: int) -> Iterator[None]:
        """Wait until the images fit beside those of the requests that run. Too many for that wait to be alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._images or self._images + images <= _MAX_IMAGES)
            self._images += images
        try:
            yield
        finally:
            with self._changed:
                self._images -= images
                self._changed.notify_all()

    @contextmanager
    def _registered(self, stream: EventStream[GenerationEvent, Finished]) -> Iterator[None]:
        """Let `stop` end the stream."""
        with self._changed:
            if self._stopped:
                raise CancelledError("the batch was cancelled")
            self._running.add(stream)
        try:
            yield
        finally:
            with self._changed:
                self._running.discard(stream)
