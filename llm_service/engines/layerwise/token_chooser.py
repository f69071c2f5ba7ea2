"""Samples one request's tokens; the options mean the same as in the sampler of continuous batching."""

import torch
from visionsplit.options.sampling import ResolvedSampling

from llm_service.engines.sampling_math import filter_scores, gumbel_noise

_WORD = 2**32


class TokenChooser:
    """Chooses tokens. A seed gives the same tokens in both engines, as far as their scores are equal."""

    def __init__(
        self, options: ResolvedSampling, token_ids: tuple[int, ...], *, vocabulary_size: int, device: torch.device
    ) -> None:
        """`token_ids` are the prompt's, with one image token for each image: a repetition penalty counts them."""
        self._options = options
        self._seen: torch.Tensor | None = None  # [vocabulary] bool
        if options.repetition_penalty != 1:
            self._seen = torch.zeros(vocabulary_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(token_ids, device=device)] = True

    def choose(self, scores: torch.Tensor, position: int) -> int:
        """The next token.

        Args:
            scores: [vocabulary] float32.
            position: position of the new token in prompt and answer together, counting dropped tokens.
        """
        options = self._options
        if self._seen is not None:
            penalty = torch.tensor(options.repetition_penalty, dtype=torch.float32, device=scores.device)
            penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
            scores = torch.where(self._seen, penalised, scores)
        if options.temperature > 0:
            scores = self._filtered_with_noise(scores[None], position)[0]
        token_id = int(scores.argmax())
        if self._seen is not None:
            self._seen[token_id] = True
        return token_id

    def _filtered_with_noise(self, scores: torch.Tensor, position: int) -> torch.Tensor:
        """[1, vocabulary] whose arg max is a draw from the softmax of the filtered scores."""
        options, device = self._options, scores.device
        numbers = torch.tensor([[options.temperature], [options.top_p]], dtype=torch.float32, device=device)
        whole = torch.tensor(
            [[options.seed % _WORD], [options.seed // _WORD], [position], [options.top_k]], device=device
        )
        filtered = filter_scores(scores, numbers[0], whole[3], numbers[1])
        return filtered + gumbel_noise(whole[0], whole[1], whole[2], scores.shape[1]).float()
