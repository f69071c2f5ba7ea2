"""The geometry equals Hugging Face's own unpadding, for every way to cut and many sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llava_next.modeling_llava_next import unpad_image
from visionsplit.grid import Region, TileGrid, UnpadRule


@settings(max_examples=300, deadline=None)
@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    shape=st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (2, 3)]),
    side=st.sampled_from([4, 8, 24]),
)
def test_valid_region_equals_hugging_faces(height: int, width: int, shape: tuple[int, int], side: int) -> None:
    grid = TileGrid.padded(height, width, rows=shape[0], columns=shape[1], side=side)
    rows = torch.arange(grid.canvas_height)[:, None].expand(-1, grid.canvas_width)
    columns = torch.arange(grid.canvas_width)[None].expand(grid.canvas_height, -1)
    kept = unpad_image(torch.stack([rows, columns]), (height, width))
    assert (grid.valid.height, grid.valid.width) == tuple(kept.shape[1:])
    if kept.numel():
        assert (grid.valid.top, grid.valid.left) == tuple(kept[:, 0, 0].tolist())


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), shape=st.sampled_from([(1, 2), (2, 2), (3, 1), (3, 3)]))
def test_tiles_share_out_the_valid_region(height: int, width: int, shape: tuple[int, int]) -> None:
    grid = TileGrid.padded(height, width, rows=shape[0], columns=shape[1], side=8)
    assert grid.valid_counts()[0] == 64
    assert sum(grid.valid_counts()[1:]) == grid.valid.area


@pytest.mark.parametrize(
    ("rule", "rows"), [(UnpadRule.HUGGING_FACE, Region(10, 38, 0, 48)), (UnpadRule.REFERENCE, Region(10, 38, 0, 48))]
)
def test_known_region(rule: UnpadRule, rows: Region) -> None:
    assert TileGrid.padded(400, 672, rows=2, columns=2, side=24, rule=rule).valid == rows


def test_rules_differ_where_floating_point_just_misses_a_whole_number() -> None:
    differing = [
        (height, width)
        for height in range(100, 400)
        for width in range(height, 400)
        if TileGrid.padded(height, width, rows=2, columns=2, side=24)
        != TileGrid.padded(height, width, rows=2, columns=2, side=24, rule=UnpadRule.REFERENCE)
    ]
    assert differing
