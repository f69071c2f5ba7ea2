"""Greedy answers to several questions about several images at once, reading each image only once.

The questions about an image share their beginning: the chat template's head and all vision tokens. Its keys and values
are computed once and copied to each question. Beginnings are padded behind and questions in front, so that padding lies
between the two and no query, padding's own included, stands without a token to attend to. Masks and positions pass
over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

_COMPACT_BELOW = 0.75  # finished answers are removed once at most this share of the rows is unfinished


@dataclass(frozen=True)
class EmbeddedImage:
    """One image as input of the language model: V tokens and newlines in order."""

    rows: torch.Tensor  # [V, Dl] on the model's device
    places: torch.Tensor  # [V] int64, ascending: position ids relative to the image's first
    num_places: int  # the number of positions that the image takes; the text after it continues there
    tiles: torch.Tensor  # [V] int64: each token's tile, -1 for newlines
    quotas: tuple[int, ...] | None = None  # how many tokens of each tile pruning in the language model keeps

    @classmethod
    def renumbered(cls, rows: torch.Tensor) -> "EmbeddedImage":
        """Tokens without tiles, at consecutive positions."""
        count = len(rows)
        return cls(rows, torch.arange(count), count, torch.full((count,), -1))


@dataclass(frozen=True)
class SharedPrompts:
    """Prompts with a common beginning."""

    head: tuple[int, ...]  # text before the image
    image: EmbeddedImage
    tails: tuple[tuple[int, ...], ...]  # the text after the image, one for each prompt; none is empty

    @property
    def shared_tokens(self) -> int:
        return len(self.head) + len(self.image.rows)

    @property
    def shared_places(self) -> int:
        """The position id of the text after the image."""
        return len(self.head) + self.image.num_places


class GreedyDecoder:
    """Continues prompts with the most likely token until an end token."""

    def __init__(self, model: PreTrainedModel, *, end_ids: Sequence[int], max_new_tokens: int) -> None:
        """
        Raises:
            ValueError: the model does not attend to all of its context; padding would count in its window.
        """
        window = getattr(model.config, "sliding_window", None)
        if window is not None and window < model.config.max_position_embeddings:
            raise ValueError("the checkpoint's language model has a sliding window; score a running system instead")
        self._model: Any = model
        self._device = model.device
        self._end_ids = torch.tensor(list(end_ids), dtype=torch.int64, device=model.device)
        self._max_new_tokens = max_new_tokens
        self._context: int = model.config.max_position_embeddings

    @torch.inference_mode()
    def decode(self, groups: Sequence[SharedPrompts]) -> list[list[tuple[int, ...]]]:
        """The new tokens of each prompt of each group, without the end token.

        Raises:
            ValueError: a prompt and its answer would not fit the context.
        """
        self._check_size(groups)
        cache, shared = self._read_shared(groups)  # shared: [G, S] bool
        owner = torch.tensor([index for index, group in enumerate(groups) for _ in group.tails], device=self._device)
        cache.batch_select_indices(owner)
        tails, present = self._padded_in_front([tail for group in groups for tail in group.tails])  # [N, L]
        mask = torch.cat([shared[owner], present], dim=1)  # [N, S + L]
        starts = torch.tensor([group.shared_places for group in groups], device=self._device)[owner]  # [N]
        positions = starts[:, None] + (present.cumsum(dim=1) - 1).clamp(min=0)  # [N, L]
        logits = self._step(cache, mask, positions, input_ids=tails)
        written = self._continue(cache, mask, positions[:, -1:] + 1, logits)  # [N, max_new_tokens]
        answers = iter(self._cut(written.tolist()))
        return [[next(answers) for _ in group.tails] for group in groups]

    def _read_shared(self, groups: Sequence[SharedPrompts]) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of the common beginnings, and which of their S positions are filled, [G, S] bool."""
        embed = self._model.get_input_embeddings()
        rows, places = [], []
        for group in groups:
            head = embed(torch.tensor(group.head, dtype=torch.int64, device=self._device))  # [H, Dl]
            rows.append(torch.cat([head, group.image.rows]))  # [H + V, Dl]
            places.append(torch.cat([torch.arange(len(head)), len(head) + group.image.places]))  # [H + V]
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        embeddings = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [G, S, Dl]
        filled = torch.arange(embeddings.shape[1], device=self._device) < lengths[:, None]  # [G, S]
        positions = torch.nn.utils.rnn.pad_sequence(places, batch_first=True).to(self._device)  # [G, S]
        cache = DynamicCache()
        self._step(cache, filled, positions, inputs_embeds=embeddings)
        return cache, filled

    def _padded_in_front(self, tails: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The tails as [N, L] int64, and which entries belong to them, [N, L] bool."""
        longest = max(map(len, tails))
        ids = torch.tensor([[0] * (longest - len(tail)) + list(tail) for tail in tails], device=self._device)
        lengths = torch.tensor([len(tail) for tail in tails], device=self._device)
        return ids, torch.arange(longest, device=self._device) >= (longest - lengths)[:, None]

    def _continue(
        self, cache: DynamicCache, mask: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Decode from the prompts' last logits [N, V]; the rows [N, max_new_tokens] continue after an end token."""
        written = torch.full((len(mask), self._max_new_tokens), -1, dtype=torch.int64, device=self._device)
        rows = torch.arange(len(mask), device=self._device)  # row of `written` for each row of the cache
        growing = torch.ones_like(rows, dtype=torch.bool)
        for step in range(self._max_new_tokens):
            tokens = logits.argmax(dim=-1)  # [n]
            written[rows, step] = tokens
            growing &= ~torch.isin(tokens, self._end_ids)
            left = int(growing.sum())
            if not left or step + 1 == self._max_new_tokens:
                break
            if left <= _COMPACT_BELOW * len(rows):
                cache.batch_select_indices(growing.nonzero()[:, 0])
                rows, tokens, mask, positions = rows[growing], tokens[growing], mask[growing], positions[growing]
                growing = growing[growing]
            mask = torch.nn.functional.pad(mask, (0, 1), value=True)
            logits = self._step(cache, mask, positions, input_ids=tokens[:, None])
            positions = positions + 1
        return written

    def _step(
        self, cache: DynamicCache, mask: torch.Tensor, positions: torch.Tensor, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """The logits [n, V] at the last position; the cache grows."""
        output = self._model(
            attention_mask=mask,  # [n, tokens so far]
            position_ids=positions,  # [n, new tokens]
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _cut(self, written: list[list[int]]) -> list[tuple[int, ...]]:
        ends = {-1, *self._end_ids.tolist()}
        lengths = [next((place for place, token in enumerate(row) if token in ends), len(row)) for row in written]
        return [tuple(row[:length]) for row, length in zip(written, lengths, strict=True)]

    def _check_size(self, groups: Sequence[SharedPrompts]) -> None:
        # The longest of both, as they are padded: a window of the context's length then covers every position.
        longest = max(max(group.shared_tokens, group.shared_places) for group in groups) + max(
            len(tail) for group in groups for tail in group.tails
        )
        if longest + self._max_new_tokens > self._context:
            raise ValueError(
                f"a prompt of {longest} tokens and {self._max_new_tokens} new ones do not fit the context of "
                f"{self._context}; lower --max-new-tokens"
            )
