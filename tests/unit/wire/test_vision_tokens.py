"""An image's chunks become the image again, or are refused with what contradicts what."""

from dataclasses import replace

import numpy as np
import pytest
from visionsplit.errors import InvalidTokensError
from visionsplit.grid import Region, TileGrid
from visionsplit.options.data_types import DataType
from visionsplit.v1 import vision_tokens_pb2 as pb
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import TokenAssembler, grid_from_proto, grid_to_proto, split_into_chunks

GRID = TileGrid.padded(100, 200, rows=2, columns=2, side=4)  # valid: canvas rows 2..6
WIDTH = 8


def tokens(budgets: tuple[int, ...] = (3, 2, 1, 0, 2)) -> tuple[TokenTensor, np.ndarray]:
    positions = []
    for tile, budget in enumerate(budgets):
        region = GRID.valid_in_tile(tile)
        cells = [(tile, r, c) for r in range(region.top, region.bottom) for c in range(region.left, region.right)]
        positions += cells[:budget]
    values = np.arange(len(positions) * WIDTH, dtype="<f4")
    return TokenTensor(DataType.FLOAT32, len(positions), WIDTH, values.tobytes()), np.array(positions, np.int32)


def header(budgets: tuple[int, ...] = (3, 2, 1, 0, 2)) -> pb.ImageTokensHeader:
    return pb.ImageTokensHeader(image_index=1, budgets=budgets)


def chunks(features: TokenTensor, positions: np.ndarray, chunk_bytes: int = 100) -> list[pb.TokenChunk]:
    return list(split_into_chunks(features, positions, image_index=1, first_chunk=0, chunk_bytes=chunk_bytes))


def assemble(parts: list[pb.TokenChunk], budgets: tuple[int, ...] = (3, 2, 1, 0, 2)):
    assembler = TokenAssembler(GRID, header(budgets), feature_size=WIDTH)
    for part in parts:
        assembler.add(part)
    return assembler.finish()


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10_000])
def test_chunks_become_the_image_again(chunk_bytes: int) -> None:
    features, positions = tokens()
    image = assemble(chunks(features, positions, chunk_bytes))
    assert image.features == features
    np.testing.assert_array_equal(image.positions, positions)
    assert image.num_bytes == len(positions) * (WIDTH * 4 + 12)


def test_chunks_stay_within_their_size() -> None:
    features, positions = tokens()
    assert [part.features.shape[0] for part in chunks(features, positions, 3 * (WIDTH * 4 + 12))] == [3, 3, 2]


def test_a_chunk_out_of_order_is_refused() -> None:
    parts = chunks(*tokens())
    parts[0], parts[1] = parts[1], parts[0]
    with pytest.raises(InvalidTokensError, match="image 1: chunk 1 came where chunk 0"):
        assemble(parts)


def test_a_missing_chunk_is_refused() -> None:
    with pytest.raises(InvalidTokensError, match="6 tokens arrived; the header announced 8"):
        assemble(chunks(*tokens())[:-1])


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(InvalidTokensError, match="header announced 7"):
        assemble(chunks(*tokens()), budgets=(3, 2, 1, 0, 1))


def test_tokens_of_another_tile_than_budgeted_are_refused() -> None:
    with pytest.raises(InvalidTokensError, match="not grouped by tile"):
        assemble(chunks(*tokens()), budgets=(3, 1, 2, 0, 2))


def test_a_wrong_width_is_refused() -> None:
    _features, positions = tokens()
    narrow = TokenTensor(DataType.FLOAT32, len(positions), 4, bytes(len(positions) * 16))
    with pytest.raises(InvalidTokensError, match="tokens are 4 wide; 8 is needed"):
        assemble(chunks(narrow, positions))


@pytest.mark.parametrize("position", [(1, 0, 0), (1, 4, 0), (1, -1, 0), (1, 2, 7)])
def test_a_position_outside_the_image_is_refused(position: tuple[int, int, int]) -> None:
    features, positions = tokens()
    positions[3] = position  # crop 1 shows image in rows 2 and 3 only
    with pytest.raises(InvalidTokensError, match="outside the image"):
        assemble(chunks(features, positions))


def test_the_same_position_twice_is_refused() -> None:
    features, positions = tokens()
    positions[1] = positions[0]
    with pytest.raises(InvalidTokensError, match="same position"):
        assemble(chunks(features, positions))


def test_positions_of_the_wrong_length_are_refused() -> None:
    parts = chunks(*tokens())
    parts[0].positions = parts[0].positions[:-1]
    with pytest.raises(InvalidTokensError, match="bytes of positions"):
        assemble(parts)


@pytest.mark.parametrize(
    ("budgets", "says"),
    [
        ((3, 2), "2 budgets for 5 tiles"),
        ((17, 0, 0, 0, 0), "tile 0 keeps 17 tokens of only 16"),
        ((1, 9, 0, 0, 0), "of only 8"),
    ],
)
def test_impossible_budgets_are_refused(budgets: tuple[int, ...], says: str) -> None:
    with pytest.raises(InvalidTokensError, match=says):
        TokenAssembler(GRID, header(budgets), feature_size=WIDTH)


def test_quotas_come_with_the_image() -> None:
    features, positions = tokens()
    quotas = (3, 1, 0, 0, 2)
    announced = pb.ImageTokensHeader(image_index=1, budgets=(3, 2, 1, 0, 2), quotas=quotas)
    assembler = TokenAssembler(GRID, announced, feature_size=WIDTH)
    assert assembler.quotas == quotas
    for part in chunks(features, positions):
        assembler.add(part)
    assert assembler.finish().quotas == quotas
    assert assemble(chunks(features, positions)).quotas is None


@pytest.mark.parametrize(
    ("quotas", "says"),
    [
        ((1, 1), "image 1: 2 quotas for 5 tiles"),
        ((3, 2, 1, 0, 2, 0), "image 1: 6 quotas for 5 tiles"),
        ((4, 0, 0, 0, 0), "image 1: tile 0 has a quota of 4 but only 3 tokens"),
        ((0, 0, 0, 1, 0), "image 1: tile 3 has a quota of 1 but only 0 tokens"),
        ((0, 0, 0, 0, 0), "image 1: every quota is 0"),
    ],
)
def test_impossible_quotas_are_refused(quotas: tuple[int, ...], says: str) -> None:
    announced = pb.ImageTokensHeader(image_index=1, budgets=(3, 2, 1, 0, 2), quotas=quotas)
    with pytest.raises(InvalidTokensError, match=says):
        TokenAssembler(GRID, announced, feature_size=WIDTH)


def test_a_grid_survives_the_wire() -> None:
    assert grid_from_proto(grid_to_proto(GRID)) == GRID


@pytest.mark.parametrize(
    "grid",
    [
        replace(GRID, side=0),
        replace(GRID, rows=0),
        replace(GRID, rows=100_000, columns=100_000),
        replace(GRID, image_height=0),
        replace(GRID, valid=Region(0, 9, 0, 8)),
        replace(GRID, valid=Region(5, 4, 0, 8)),
    ],
)
def test_an_impossible_grid_is_refused(grid: TileGrid) -> None:
    with pytest.raises(InvalidTokensError):
        grid_from_proto(grid_to_proto(grid))


POOLED = TileGrid(4, 2, 2, 100, 200, Region(0, 5, 0, 7), (0, 2, 5), (0, 3, 7))


def test_a_pooled_canvas_and_an_image_without_crops() -> None:
    alone = TileGrid.squashed(100, 200, rows=0, columns=0, side=4)
    for grid in (POOLED, alone):
        assert grid_from_proto(grid_to_proto(grid)) == grid
    assert (POOLED.canvas_height, POOLED.canvas_width) == (5, 7)
    assert POOLED.valid_counts() == [16, 6, 8, 9, 12]
    assert alone.valid_counts() == [16]


@pytest.mark.parametrize(
    ("rows", "columns", "says"),
    [
        ((0, 2), (0, 3, 7), "2 row bounds; 3 are needed"),
        ((), (0, 3, 7), "needs both or neither"),
        ((0, 2, 5), (), "needs both or neither"),
        ((1, 2, 5), (0, 3, 7), "do not divide a canvas"),
        ((0, 5, 6), (0, 3, 7), "of at most 4 cells"),
        ((0, 2, 1), (0, 3, 7), "do not divide a canvas"),
        ((0, 2, 4), (0, 3, 7), "do not lie on a canvas"),
        (range(100_000), (0, 3, 7), "100000 row bounds; 3 are needed"),
    ],
)
def test_bounds_that_contradict_the_grid_are_refused(rows, columns, says: str) -> None:
    message = grid_to_proto(replace(POOLED, row_bounds=(), column_bounds=()))
    message.row_bounds.extend(rows)
    message.column_bounds.extend(columns)
    with pytest.raises(InvalidTokensError, match=says):
        grid_from_proto(message)


def test_a_header_may_give_its_image_another_width() -> None:
    features, positions = tokens()
    wide = pb.ImageTokensHeader(image_index=1, budgets=(3, 2, 1, 0, 2), feature_size=WIDTH)
    assembler = TokenAssembler(GRID, wide, feature_size=3)
    for part in chunks(features, positions):
        assembler.add(part)
    assert assembler.finish().features == features
