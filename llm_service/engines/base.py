"""What a replica asks of a decoding engine."""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from visionsplit.options.sampling import ResolvedSampling

from llm_service.job import TokenEvent
from llm_service.pruning import ComposedPruning


@dataclass(frozen=True)
class Places:
    """Where an image's tokens would be if every one of them had been kept."""

    offsets: NDArray[np.int64]  # [num_tokens], ascending, from the image's first place
    span: int  # places of the whole image; what follows it begins there


@dataclass(frozen=True)
class ImageInput:
    """One image of a request, embedded only where the engine does not have it yet."""

    key: bytes  # equal for equal content, and for nothing else
    num_tokens: int  # vision tokens and newlines
    embed: Callable[[], torch.Tensor]  # -> [num_tokens, Dl] in the model's type, on its device
    tiles: NDArray[np.int64]  # [num_tokens]: the tile of each vision token, -1 for a newline
    quotas: tuple[int, ...] | None = None  # vision tokens of each tile that pruning is to keep
    places: Places | None = None  # None counts the tokens through

    @property
    def span(self) -> int:
        """Places that the image takes in the position encoding."""
        return self.num_tokens if self.places is None else self.places.span


@dataclass(frozen=True)
class EngineRequest:
    """Tokens in."""

    request_id: str  # the caller's, for logs; need not be unique
    token_ids: tuple[int, ...]  # the image token once for each image
    images: tuple[ImageInput, ...]
    sampling: ResolvedSampling
    pruning: ComposedPruning | None = None
    caller: str = ""  # callers take turns

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.token_ids) - len(self.images) + sum(image.num_tokens for image in self.images)

    @property
    def num_places(self) -> int:
        """Places of the prompt in the position encoding: its tokens, or more where images have places of their own."""
        return len(self.token_ids) - len(self.images) + sum(image.span for image in self.images)


class Engine(ABC):
    """Decodes many requests together. Its methods belong to one event loop, except where they say otherwise."""

    name: str

    @abstractmethod
    def start(self) -> None:
        """Take memory and begin to serve. Blocks; any thread."""

    @abstractmethod
    def stop(self) -> None:
        """End what runs with UnavailableError and release everything. Blocks; any thread."""

    @abstractmethod
    def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        """Tokens of the answer as they come. Closing the generator frees the request's place within one step.

        Raises:
            PromptTooLongError: the request can never fit.
            InvalidPruningError: the pruning cannot be done to this prompt.
            OverloadedError: too many requests are waiting.
            UnavailableError: the engine is stopping, or could not be brought up again.
            InternalError: a decoding step failed.
        """

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Most tokens of prompt and answer together that a request can have: the model's bound or the cache's."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """Whether the engine serves, or is about to again."""
