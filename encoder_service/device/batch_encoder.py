"""Runs one batch of tiles on the device: vision tower, scores, selection, packing, and one copy to the host.

Tiles of different images share the forward pass, and equal methods' choices of tokens.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from visionsplit.errors import VisionSplitError
from visionsplit.families.encoder_half import EncoderHalf

from encoder_service.compression import (
    FROM_TEXT,
    KeptTokens,
    NextTiles,
    Plan,
    TileFeatures,
    TowerOutput,
    prepare_device,
    take_together,
)
from encoder_service.device.encoding import EncodedTiles, EncodeRequest, ImageEncoding, SpanResult, TileSpan
from encoder_service.device.text_tower import TextTower
from encoder_service.device.wire_tensors import PackedTokens, pack, to_host, to_token_tensor


@dataclass(frozen=True)
class _Chosen:
    """The kept tokens of one span, still on the device."""

    span: TileSpan
    plan: Plan
    numbers: torch.Tensor  # [K] int64, cell numbers that go on from tile to tile
    packed: PackedTokens  # [K, Dv]
    evidence: torch.Tensor | None  # [P]; see `EncodedTiles`
    ranks: torch.Tensor | None  # [K]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors to copy to the host."""
        beside = [tensor for tensor in (self.evidence, self.ranks) if tensor is not None]
        return [self.numbers, *self.packed.tensors, *beside]


OnBatch = Callable[[int, float, float], None]  # tiles, seconds, and how many of these the host spent on choosing


def _ignore(tiles: int, seconds: float, choosing_seconds: float) -> None:
    """Default callback: does nothing."""


class BatchEncoder:
    """Runs batches of tiles. Used by one thread only."""

    def __init__(self, half: EncoderHalf, text_tower: TextTower | None = None, on_batch: OnBatch = _ignore) -> None:
        self._half = half
        self._text_tower = text_tower
        self._on_batch = on_batch
        prepare_device(half.device)

    def encode_image(self, request: EncodeRequest) -> EncodedTiles:
        """Encode all tiles of one image in one batch.

        Raises:
            VisionSplitError: the image cannot be encoded as asked.
            Exception: the forward pass failed.
        """
        (result,) = self.encode([TileSpan(ImageEncoding(request), 0, request.image.grid.num_tiles)])
        if isinstance(result, VisionSplitError):
            raise result
        assert result is not None, "no tile is left to wait for"
        return result

    @torch.inference_mode()
    def encode(self, spans: Sequence[TileSpan]) -> list[SpanResult | None]:
        """Encode one batch, which has at most one span of each image.

        Returns:
            For every span its tokens, None while these wait for the rest of the image, or the error that concerns its
            image alone.

        Raises:
            Exception: the forward pass failed, for all of them.
        """
        started = time.monotonic()
        needs = (span.encoding.request.composition.needs for span in spans)
        encoded = self._half(self._upload(spans), frozenset[TowerOutput]().union(*needs) - FROM_TEXT)
        choosing = time.monotonic()
        tiles, slot = [], 0
        for span in spans:
            stop = slot + span.stop - span.first
            tiles.append(self._tiles(span, encoded.tiles(slot, stop)))
            slot = stop
        taken = take_together(tiles)
        choosing = time.monotonic() - choosing
        choices = [
            self._packed(span, one) if isinstance(one, KeptTokens) else one
            for span, one in zip(spans, taken, strict=True)
        ]
        collected = iter(self._collect([choice for choice in choices if isinstance(choice, _Chosen)], started))
        results = [next(collected) if isinstance(choice, _Chosen) else choice for choice in choices]
        for span, result in zip(spans, results, strict=True):
            if result is None:
                encoding = span.encoding
                encoding.held_since = started if encoding.held_since is None else encoding.held_since
                encoding.held_seconds += time.monotonic() - started
        self._on_batch(slot, time.monotonic() - started, choosing)
        return results

    def _upload(self, spans: Sequence[TileSpan]) -> torch.Tensor:
        """The batch's pixels on the device, [B, 3, H, W] uint8."""
        parts = [span.encoding.request.image.pixels[span.first : span.stop] for span in spans]
        if self._half.device.type != "cuda":
            return torch.cat(parts)
        shape = (sum(map(len, parts)), *parts[0].shape[1:])
        pinned = torch.cat(parts, out=torch.empty(shape, dtype=parts[0].dtype, pin_memory=True))
        return pinned.to(self._half.device, non_blocking=True)

    def _tiles(self, span: TileSpan, encoded: TileFeatures) -> NextTiles:
        """A span's tiles with everything that its image's composition reads."""
        encoding, request = span.encoding, span.encoding.request
        if encoding.plan is None:
            encoding.plan = Plan(
                request.composition,
                request.image.grid,
                self._half.device,
                whole=self._half.whole if self._half.needs_whole_image(request.image.grid) else None,
            )
        if request.text is not None:
            assert self._text_tower is not None, "who embedded the text?"
            relevance = self._text_tower.relevance(encoded.features, request.text)  # [t, P]
            encoded = TileFeatures(encoded.features, {**encoded.outputs, TowerOutput.TEXT_RELEVANCE: relevance})
        return NextTiles(encoding.plan, span.first, span.stop, encoded)

    def _packed(self, span: TileSpan, kept: KeptTokens) -> _Chosen:
        """The span's kept tokens in wire format, still on the device."""
        plan = span.encoding.plan
        assert plan is not None, "the tokens are the plan's"
        features = self._half.connect(span.encoding.request.image.grid, kept.features)
        packed = pack(features, span.encoding.request.data_type, kept.sound)
        is_first = span.first == 0 or plan.waits_for_image
        return _Chosen(span, plan, kept.numbers, packed, plan.evidence if is_first else None, kept.ranks)

    def _collect(self, chosen: list[_Chosen], started: float) -> list[SpanResult]:
        """Copy the tokens of all spans to the host together; the results are in the order of the spans."""
        arrived = iter(to_host([tensor for choice in chosen for tensor in choice.tensors]))
        seconds = time.monotonic() - started
        results: list[SpanResult] = []
        for choice in chosen:
            numbers = next(arrived)  # [K]
            packed = choice.packed.with_tensors([next(arrived) for _ in choice.packed.tensors])
            # Copies: what arrived may be a view that keeps the whole batch in memory.
            evidence = None if choice.evidence is None else next(arrived).numpy().astype(np.float32)
            ranks = None if choice.ranks is None else next(arrived).numpy().astype(np.int32)
            try:
                features = to_token_tensor(packed)
            except VisionSplitError as error:
                results.append(error)
                continue
            positions = choice.plan.positions(numbers).numpy().astype(np.int32)  # [K, 3]
            encoding = choice.span.encoding
            began = started if encoding.held_since is None else encoding.held_since
            spent = seconds + encoding.held_seconds
            budgets, quotas = choice.plan.budgets, choice.plan.quotas
            tiles = EncodedTiles(choice.span.stop, budgets, quotas, features, positions, began, spent, evidence, ranks)
            results.append(tiles)
        return results
