"""Prompts in vLLM's form: token ids, and embeddings where images are."""

from typing import TypeAlias

import numpy as np
import torch
from visionsplit.errors import InvalidPromptError, InvalidTokensError
from vllm.inputs import EmbedsInput, TokensInput, embeds_input, tokens_input

from llm_service.engines.base import EngineRequest

VllmPrompt: TypeAlias = TokensInput | EmbedsInput


class PromptMaker:
    """Makes prompts, and refuses what would end vLLM's engine core or would be answered with noise."""

    def __init__(self, *, image_token_id: int, vocabulary_size: int, width: int, dtype: torch.dtype) -> None:
        """`width` and `dtype` are those of the model's embeddings."""
        self._image_token_id = image_token_id
        self._vocabulary_size = vocabulary_size
        self._width = width
        self._dtype = dtype

    def make(self, request: EngineRequest) -> VllmPrompt:
        """Embed the images and put them into the prompt. Blocks.

        Raises:
            InvalidPromptError: a token id is not in the model's vocabulary; vLLM would fail for all requests.
            InvalidTokensError: an image's embeddings are not finite.
        """
        ids = np.array(request.token_ids, np.int64)  # [tokens, with one for each run of an image]
        if not len(ids) or ids.min() < 0 or ids.max() >= self._vocabulary_size:
            raise InvalidPromptError(
                f"token ids from {ids.min(initial=0)} to {ids.max(initial=0)}; the model has {self._vocabulary_size}"
            )
        if not request.images:
            text: VllmPrompt = tokens_input(list(request.token_ids))
            return text
        images = [self._checked(index, image.embed()) for index, image in enumerate(request.images)]
        lengths = np.ones(len(ids), np.int64)
        lengths[ids == self._image_token_id] = [run.num_tokens for run in request.runs]
        expanded = np.repeat(ids, lengths)  # [prompt]
        is_text = expanded != self._image_token_id  # [prompt]
        # Rows of text are looked up by vLLM. They are zero here because it compares whole rows to find equal prefixes.
        embeddings = torch.zeros(len(expanded), self._width, dtype=self._dtype)
        embeddings[torch.from_numpy(~is_text)] = torch.cat(images)
        mixed: VllmPrompt = embeds_input(embeddings, prompt_token_ids=expanded.tolist(), is_token_ids=is_text.tolist())
        return mixed

    def _checked(self, index: int, embeddings: torch.Tensor) -> torch.Tensor:
        """An image's embeddings on the CPU, from where vLLM takes them.

        The projector's weights decide width and type, so another one is a mistake of this service.
        """
        expected = (self._width, self._dtype)
        if (embeddings.shape[1], embeddings.dtype) != expected:
            raise AssertionError(f"embeddings are {embeddings.shape[1]} {embeddings.dtype}; {expected} is needed")
        embeddings = embeddings.cpu()
        if not embeddings.isfinite().all():
            raise InvalidTokensError(f"image {index}: the vision tokens' embeddings are not finite numbers")
        return embeddings


def num_image_rows(request: EngineRequest) -> int:
    """Rows of embeddings that the request's prompt holds."""
    return sum(image.num_tokens for image in request.images)
