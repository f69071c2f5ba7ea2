"""Per-request sampling inside the engine's step.

The engine takes the arg max of the scores. Greedy rows keep their scores; sampled rows get Gumbel noise added to their
filtered scores, whose arg max is a draw from their softmax (Gumbel-max trick). The noise is a hash of the request's
seed, the token's position and its vocabulary index, instead of the output of a stateful generator: a seed gives the
same text whatever else is in the batch, and a captured CUDA graph draws new noise at every replay.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList
from transformers.generation.continuous_batching.requests import FutureRequestState
from visionsplit.options.sampling import ResolvedSampling

from llm_service.engines.sampling_math import filter_scores, gumbel_noise

SAMPLING_KEY = "sampling"
_MASK = 0xFFFFFFFF
# Rows of the argument storage, [row, request] int32; floats and seeds are stored as their bits.
_TEMPERATURE, _TOP_K, _TOP_P, _PENALTY, _SEED_LOW, _SEED_HIGH, _POSITION, _SLOT = range(8)
_NO_SLOT = 0


@dataclass(frozen=True)
class SamplingRow:
    """The sampling arguments of one request."""

    options: ResolvedSampling
    slot: int = _NO_SLOT  # index of the request's seen tokens; 0 without a repetition penalty

    @property
    def active(self) -> bool:
        return self.options.temperature > 0 or self.slot != _NO_SLOT


class Sampler(ContinuousBatchingLogitsProcessorList):  # type: ignore[misc]  # transformers has no types
    """Replaces the engine's list of logits processors."""

    def __init__(self, *, vocabulary_size: int, slots: int, device: torch.device) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = 8
        self.do_processing = True
        self.always_process = False  # must be True if a captured graph replays the step
        self._any_active = False
        # Slot 0 belongs to all requests without a penalty: it is written to like the others and never read.
        self._seen = torch.zeros(slots + 1, vocabulary_size, dtype=torch.bool, device=device)
        self._free_slots = list(range(1, slots + 1))
        floats = torch.tensor([0.0, 1.0, 1.0]).view(torch.int32).tolist()
        self._defaults = torch.tensor([floats[0], 0, floats[1], floats[2], 0, 0, 0, _NO_SLOT], dtype=torch.int32)

    def acquire_slot(self) -> int | None:
        """Reserve a row for seen tokens; None while all are taken."""
        return self._free_slots.pop() if self._free_slots else None

    def release_slot(self, slot: int) -> None:
        """Return a slot. Call only when no engine step can write to it any more."""
        if slot != _NO_SLOT:
            self._free_slots.append(slot)

    def note_prompt(self, slot: int, token_ids: list[int]) -> None:
        """Reset a request's seen tokens to those of its prompt."""
        self._seen[slot] = False
        self._seen[slot, torch.tensor(token_ids, device=self._seen.device)] = True

    # The interface of the engine's own list, which the engine calls on its thread.

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        if not isinstance(kwargs.get(SAMPLING_KEY), SamplingRow):
            raise TypeError(f"every request needs a {SAMPLING_KEY!r}")

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.copy_(self._defaults[:, None])

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Write the batch's arguments, [8, requests with a new token], into the storage."""
        states = [request.state for request in requests_in_batch if request.has_new_token]
        rows: list[SamplingRow] = [state.logit_processor_kwargs.get(SAMPLING_KEY, _GREEDY) for state in states]
        self._any_active = any(row.active for row in rows)
        # A padded graph reads columns beyond the batch, where a stale slot would mark tokens of another request.
        arg_storage.copy_(self._defaults[:, None])
        if self._any_active:
            # The offset already includes this step's tokens, also after an eviction, so it is the new token's position.
            columns = [_column(row, state.position_offset) for row, state in zip(rows, states, strict=True)]
            arg_storage[:, : len(rows)] = torch.stack(columns, dim=1)
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """Scores whose arg max is the next token.

        Args:
            input_ids: [requests] the last token of each request's input.
            scores: [requests, vocabulary] float32.
            logits_processor_args: [8, at least requests] int32.
        """
        if not (self._any_active or self.always_process):
            return scores
        arguments = logits_processor_args[:, : len(scores)]
        scores = self._penalise(input_ids, scores, arguments)
        return _sample(scores, arguments)

    def _penalise(self, input_ids: torch.Tensor, scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
        slots = arguments[_SLOT].long()
        # Only a prompt's last token can be a virtual id, and `note_prompt` has already marked the image token for it.
        known = input_ids < scores.shape[1]
        self._seen[torch.where(known, slots, _NO_SLOT), torch.where(known, input_ids, 0).long()] = True
        penalty = arguments[_PENALTY].view(torch.float32)[:, None]
        penalised = torch.where(scores < 0, scores * penalty, scores / penalty)
        return torch.where(self._seen[slots] & (slots != _NO_SLOT)[:, None], penalised, scores)


def _sample(scores: torch.Tensor, arguments: torch.Tensor) -> torch.Tensor:
    temperature = arguments[_TEMPERATURE].view(torch.float32)
    sampled = temperature > 0
    filtered = filter_scores(
        scores,
        torch.where(sampled, temperature, 1.0),
        arguments[_TOP_K],
        arguments[_TOP_P].view(torch.float32),
    )
    noise = gumbel_noise(arguments[_SEED_LOW], arguments[_SEED_HIGH], arguments[_POSITION], scores.shape[1])
    return torch.where(sampled[:, None], filtered + noise.float(), scores)


def _column(row: SamplingRow, position: int) -> torch.Tensor:
    options = row.options
    floats = torch.tensor([options.temperature, options.top_p, options.repetition_penalty], dtype=torch.float32)
    temperature, top_p, penalty = floats.view(torch.int32).tolist()
    top_k = min(options.top_k, 2**31 - 1)
    seed_low, seed_high = (_signed(options.seed & _MASK), _signed(options.seed >> 32))
    return torch.tensor(
        [temperature, top_k, top_p, penalty, seed_low, seed_high, position, row.slot], dtype=torch.int32
    )


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word


_GREEDY = SamplingRow(ResolvedSampling(max_new_tokens=1))
