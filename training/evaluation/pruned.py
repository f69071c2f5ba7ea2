"""Greedy answers with pruning in the language model: question by question, since the question decides what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel
from visionsplit.options.prefill import Pruning

from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.pruning import PromptLayout, compose
from training.evaluation.decoding import SharedPrompts


@dataclass(frozen=True)
class PrunedAnswer:
    """An answer, and the number of vision tokens it is based on."""

    token_ids: tuple[int, ...]  # without the end token
    vision_tokens: float  # in the caches, newlines included, mean over the layers


class PruningDecoder:
    """Continues prompts with the most likely token until an end token, one prompt at a time."""

    def __init__(self, model: PreTrainedModel, *, end_ids: Sequence[int], max_new_tokens: int) -> None:
        self._model = LayerwiseModel(model)
        self._end_ids = frozenset(end_ids)
        self._max_new_tokens = max_new_tokens

    def decode(self, prompts: SharedPrompts, spec: Pruning) -> list[PrunedAnswer]:
        """The answer to each prompt.

        Raises:
            InvalidPruningError: an unknown method, or a value out of range.
            ValueError: a prompt and its answer would not fit the context.
        """
        image = prompts.image
        pruning = compose(spec, self._model.num_layers, quotas=image.quotas is not None)
        head = self._model.embed(prompts.head)  # [H, Dl]
        answers = []
        for tail in prompts.tails:
            embeddings = torch.cat([head, image.rows, self._model.embed(tail)])  # [n, Dl]
            self._check_size(len(embeddings))
            layout = _layout(prompts, len(tail), self._model.device)
            state = self._model.prefill(embeddings, layout, pruning)
            text = len(head) + len(tail)
            vision = sum(state.layer_tokens) / len(state.layer_tokens) - text
            written: list[int] = []
            while len(written) < self._max_new_tokens:
                token = int(state.logits.argmax())
                if token in self._end_ids:
                    break
                written.append(token)
                if len(written) < self._max_new_tokens:
                    self._model.step(state, token)
            answers.append(PrunedAnswer(tuple(written), vision))
        return answers

    def _check_size(self, prompt: int) -> None:
        if prompt + self._max_new_tokens > self._model.context_length:
            raise ValueError(
                f"a prompt of {prompt} tokens and {self._max_new_tokens} new ones exceed the context of "
                f"{self._model.context_length}"
            )


def _layout(prompts: SharedPrompts, tail: int, device: torch.device) -> PromptLayout:
    head, image = len(prompts.head), prompts.image
    vision = torch.zeros(head + len(image.rows) + tail, dtype=torch.bool, device=device)
    vision[head : head + len(image.rows)] = True
    tiles = torch.full((len(vision),), -1, dtype=torch.int64, device=device)
    tiles[head : head + len(image.rows)] = image.tiles.to(device)
    end = head + image.num_places
    positions = torch.cat([torch.arange(head), head + image.places, torch.arange(end, end + tail)]).to(device)
    quotas = None if image.quotas is None else torch.tensor(image.quotas, device=device)
    return PromptLayout.of(vision, tiles=tiles, positions=positions, quotas=quotas)
