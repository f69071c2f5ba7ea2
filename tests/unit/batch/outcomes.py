"""Creates outcomes like those of a job's runner, without services."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from visionsplit.grid import TileGrid
from visionsplit.options.data_types import DataTypeName, data_type_of
from visionsplit.wire.tensors import TokenTensor
from visionsplit_batch.rows.records import RunLabels
from visionsplit_batch.rows.rows import Answers, Outcome, Question, Tokens
from visionsplit_client import Compression, EncodedImage, Generation, ImageSummary, LlmTimings, Usage, VisionTokens
from visionsplit_client._info import VisionFormat
from visionsplit_client._results import EncodeTimings

from tests.unit.client.fakes import FEATURE_SIZE, fake_features, kept_positions

LABELS = RunLabels("vlm", '{"position_ids": "renumbered"}', "0123456789abcdef")
GRIDS = (
    TileGrid.padded(300, 500, rows=2, columns=2, side=8),
    TileGrid.padded(90, 400, rows=1, columns=3, side=8),
)
TIMINGS = EncodeTimings(0.125, 0.25, 0.5, 0.75, 1.0)


def encoded_image(number: int = 0, data_type: DataTypeName = "float32", ratio: float = 0.25) -> EncodedImage:
    """The n-th image's tokens; its features differ from those of another number or ratio."""
    grid = GRIDS[number % len(GRIDS)]
    budgets, positions = kept_positions(grid, ratio)
    features = fake_features(len(positions) + number, data_type_of(data_type))
    tokens = VisionTokens(grid, tuple(budgets), features.slice_rows(number, features.rows), positions, None)
    return EncodedImage(
        tokens,
        VisionFormat(FEATURE_SIZE, "f" * 32),
        "spatial",
        _summary(grid, tuple(budgets), tokens.num_bytes),
        Compression(retention_ratio=ratio, parameters={"tau": 5.0}),
    )


def answered(
    row_id: str = "a",
    texts: tuple[str, ...] = (" A cat. \n",),
    *,
    questions: tuple[Question, ...] | None = None,
    images: int = 1,
    fields: Mapping[str, Any] | None = None,
    index: int = 0,
) -> Outcome:
    asked = tuple(Question(f"What is {number}?") for number in range(len(texts))) if questions is None else questions
    summaries = tuple(encoded_image(number).summary for number in range(images))
    generations = tuple(_generation(text, summaries) for text in texts)
    return Outcome(0, index, row_id, Answers(asked, generations, fields or {}))


def encoded(
    row_id: str = "a",
    *,
    images: int = 1,
    data_type: DataTypeName = "float32",
    ratio: float = 0.25,
    fields: Mapping[str, Any] | None = None,
    index: int = 0,
) -> Outcome:
    tokens = tuple(encoded_image(number, data_type, ratio) for number in range(images))
    return Outcome(0, index, row_id, Tokens(tokens, fields or {}))


def same_tokens(one: EncodedImage, other: EncodedImage) -> bool:
    same_features: TokenTensor = other.tokens.features
    return (
        one.tokens.features == same_features
        and np.array_equal(one.tokens.positions, other.tokens.positions)
        and (one.tokens.budgets, one.tokens.quotas) == (other.tokens.budgets, other.tokens.quotas)
        and (one.format, one.layout, one.summary, one.compression)
        == (other.format, other.layout, other.summary, other.compression)
    )


def _summary(grid: TileGrid, budgets: tuple[int, ...], wire_bytes: int) -> ImageSummary:
    return ImageSummary(0, grid, budgets, sum(grid.valid_counts()), sum(budgets), wire_bytes, TIMINGS)


def _generation(text: str, images: tuple[ImageSummary, ...]) -> Generation:
    kept, before = sum(one.tokens_after for one in images), sum(one.tokens_before for one in images)
    return Generation(
        text=text,
        token_ids=tuple(range(len(text))),
        finish_reason="stop",
        usage=Usage(kept + 12, 9, kept, 3, before, len(text), sum(one.wire_bytes for one in images)),
        timings=LlmTimings(0.5, 0.25, 0.5, 1.0, 2.0),
        layer_tokens=(),
        images=images,
        request_id="differs each time",
        time_to_first_token_seconds=1.5,
        total_seconds=3.0,
    )
