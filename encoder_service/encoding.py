"""One batch of tiles through the device: vision tower, scores, selection, packing, and one copy to the host.

Tiles of different images share the forward pass; from the scores on, each image goes its own way.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from visionsplit.errors import VisionSplitError

from encoder_service.compression import Plan, TowerOutput
from encoder_service.jobs import EncodedTiles, ImageJob, SpanResult, TileSpan
from encoder_service.tokens_out import PackedTokens, pack, to_host, to_token_tensor
from encoder_service.vision_tower import TileFeatures, VisionTower


@dataclass(frozen=True)
class _Chosen:
    """One span's kept tokens, still on the device."""

    span: TileSpan
    plan: Plan
    numbers: torch.Tensor  # [K] int64, cells counted through the image's tiles
    packed: PackedTokens  # [K, Dv]


class BatchEncoder:
    """Runs batches of tiles. Used by one thread only."""

    def __init__(self, tower: VisionTower) -> None:
        self._tower = tower

    @torch.inference_mode()
    def encode(self, spans: list[TileSpan]) -> list[tuple[ImageJob, SpanResult]]:
        """Encode one batch: for every span its tokens, or the error that concerns its image alone.

        Raises:
            Exception: the forward pass failed, for all of them.
        """
        started = time.monotonic()
        wanted = frozenset[TowerOutput]().union(*(span.job.composition.needs for span in spans))
        encoded = self._tower(self._upload(spans), wanted)
        chosen: list[_Chosen] = []
        results: list[tuple[ImageJob, SpanResult]] = []
        slot = 0
        for span in spans:
            stop = slot + span.stop - span.first
            try:
                chosen.append(self._choose(span, encoded, slot, stop))
            except VisionSplitError as error:
                results.append((span.job, error))
            slot = stop
        return results + self._collect(chosen, started)

    def _upload(self, spans: list[TileSpan]) -> torch.Tensor:
        """The batch's pixels on the device, [B, 3, H, W]."""
        parts = [span.job.image.pixels[span.first : span.stop] for span in spans]
        pixels = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self._tower.device.type != "cuda":
            return pixels
        return pixels.pin_memory().to(self._tower.device, non_blocking=True)

    def _choose(self, span: TileSpan, encoded: TileFeatures, slot: int, stop: int) -> _Chosen:
        """Score, select and pack one span, whose tiles are the batch's [slot, stop)."""
        job = span.job
        logits = encoded.outputs.get(TowerOutput.CLS_LOGITS)
        scores = None if logits is None else logits[slot:stop]  # [t, P]
        plan = job.plan
        if plan is None:
            plan = Plan(job.composition, job.image.grid, self._tower.device)
            job.plan = plan
            plan.start(None if scores is None else scores[0])
        numbers = plan.choose(span.first, span.stop, scores)  # [K]
        rows = encoded.features[slot:stop].reshape(-1, encoded.features.shape[-1])  # [t * P, Dv]
        kept = rows.index_select(0, numbers - span.first * job.image.grid.cells_per_tile)  # [K, Dv]
        return _Chosen(span, plan, numbers, pack(kept, job.data_type))

    def _collect(self, chosen: list[_Chosen], started: float) -> list[tuple[ImageJob, SpanResult]]:
        """Bring all spans' tokens to the host at once."""
        tensors = [tensor for choice in chosen for tensor in (choice.numbers, *choice.packed.tensors)]
        arrived = iter(to_host(tensors))
        seconds = time.monotonic() - started
        results: list[tuple[ImageJob, SpanResult]] = []
        for choice in chosen:
            numbers = next(arrived)  # [K]
            packed = choice.packed.with_tensors([next(arrived) for _ in choice.packed.tensors])
            try:
                features = to_token_tensor(packed)
            except VisionSplitError as error:
                results.append((choice.span.job, error))
                continue
            positions = choice.plan.positions(numbers).numpy().astype(np.int32)  # [K, 3]
            tiles = EncodedTiles(choice.span.stop, choice.plan.budgets, features, positions, started, seconds)
            results.append((choice.span.job, tiles))
        return results
