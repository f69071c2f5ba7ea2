"""The interface of a decoding engine, as a replica uses it."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.errors import PromptTooLongError
from visionsplit.options.sampling import ResolvedSampling

from llm_service.job import EngineUse, TokenEvent
from llm_service.pruning import ComposedPruning


@dataclass(frozen=True)
class ImageRun:
    """An unbroken row of an image's tokens in the prompt; some models have text between an image's runs."""

    num_tokens: int  # vision tokens and newlines; may be 0
    span: int  # positions that the run takes in the position encoding
    offsets: NDArray[np.int64]  # [num_tokens], ascending, of each token's position from the run's first

    @classmethod
    def consecutive(cls, num_tokens: int) -> "ImageRun":
        """A run whose tokens are numbered one after the other."""
        return cls(num_tokens, num_tokens, np.arange(num_tokens))


@dataclass(frozen=True)
class ImageInput:
    """One image of a request, embedded only if the engine does not hold its embeddings yet."""

    key: bytes  # equal for two images exactly if their content is equal
    runs: tuple[ImageRun, ...]  # each in the place of one image token of the prompt
    embed: Callable[[], torch.Tensor]  # -> [num_tokens, Dl] in the model's type, on its device; one run after the other
    tiles: NDArray[np.int64]  # [num_tokens]: the tile of each vision token, -1 for a newline
    quotas: tuple[int, ...] | None = None  # how many vision tokens of each tile pruning keeps

    @property
    def num_tokens(self) -> int:
        """The number of vision tokens and newlines."""
        return sum(run.num_tokens for run in self.runs)


@dataclass(frozen=True)
class EngineRequest:
    """A prompt with its images, sampling options and pruning."""

    request_id: str  # set by the caller and used in logs; need not be unique
    token_ids: tuple[int, ...]  # with one image token for each run of an image
    images: tuple[ImageInput, ...]
    sampling: ResolvedSampling
    pruning: ComposedPruning | None = None
    caller: str = ""  # callers take turns
    pause_seconds: float = 0.0  # see `Job`

    @property
    def runs(self) -> list[ImageRun]:
        """The runs of all images, in the order of the prompt."""
        return [run for image in self.images for run in image.runs]

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.token_ids) + sum(run.num_tokens - 1 for run in self.runs)

    @property
    def num_positions(self) -> int:
        """Positions of the prompt: one per token, or more if its images keep their original positions."""
        return len(self.token_ids) + sum(run.span - 1 for run in self.runs)


class Engine(ABC):
    """Decodes many requests together. Its methods belong to one event loop unless they say otherwise."""

    name: str

    @abstractmethod
    def start(self) -> None:
        """Allocate memory and begin to serve. Blocks; callable from any thread."""

    @abstractmethod
    def stop(self) -> None:
        """End running requests with UnavailableError and release all memory. Blocks; callable from any thread."""

    @abstractmethod
    def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """Yield the answer's tokens as they are decoded. Closing the generator frees the request's place within a step.

        Raises:
            PromptTooLongError: the request can never fit.
            InvalidPruningError: the pruning cannot be applied to this prompt.
            OverloadedError: too many requests are waiting.
            UnavailableError: the engine is stopping, or could not be restarted.
            InternalError: a decoding step failed.
        """

    @property
    @abstractmethod
    def context_length(self) -> int:
        """The most tokens, prompt and answer together, that a request can have: the model's or the cache's limit."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether the engine serves requests, or is being restarted to do so."""


class MainEngine(Engine):
    """The engine of a replica for all requests that do not need the layers one by one; it says what it has in use."""

    @property
    @abstractmethod
    def use(self) -> EngineUse:
        """How much of its memory is in use. Called on the event loop that admits requests."""


def check_fits(request: EngineRequest, *, context: int, image_rows: int, max_image_rows: int) -> None:
    """Refuse a request that can never run.

    Args:
        context: the most tokens of prompt and answer together.
        image_rows: embeddings that the request's images take in the engine.
        max_image_rows: the most that the engine holds.

    Raises:
        PromptTooLongError: names what is needed and what there is.
    """
    prompt, new = request.num_prompt_tokens, request.sampling.max_new_tokens
    if prompt + new > context:
        raise PromptTooLongError(
            f"prompt of {prompt} tokens and {new} new tokens need {prompt + new}; this replica holds {context}"
        )
    if image_rows > max_image_rows:
        raise PromptTooLongError(
            f"the images take {image_rows} vision tokens and newlines; this replica holds {max_image_rows}"
        )
