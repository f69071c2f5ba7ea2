"""One image's vision tokens on the wire: grid, budgets, chunks, and the assembly that validates them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from visionsplit.errors import InvalidTokensError
from visionsplit.grid import Region, TileGrid
from visionsplit.v1 import vision_tokens_pb2
from visionsplit.wire.tensors import TokenTensor, concatenate

Positions = NDArray[np.int32]  # [tokens, 3]: tile, row and column within the tile
_POSITION_BYTES = 12
# Far above any real grid; they limit the arithmetic on an untrusted grid.
_MAX_SIDE = 1024
_MAX_CROPS = 1024


@dataclass(frozen=True)
class VisionTokens:
    """The kept tokens of one image, in the order in which they were picked, tile after tile."""

    grid: TileGrid
    budgets: tuple[int, ...]  # tokens kept per tile, thumbnail first
    features: TokenTensor  # [tokens, feature_size]
    positions: Positions  # [tokens, 3] int32
    quotas: tuple[int, ...] | None = None  # how many tokens of each tile pruning in the language model keeps

    @property
    def num_tokens(self) -> int:
        return len(self.positions)

    @property
    def num_bytes(self) -> int:
        """Bytes of features, scales and positions."""
        return self.features.num_bytes + self.positions.nbytes


def grid_to_proto(grid: TileGrid) -> vision_tokens_pb2.TileGrid:
    return vision_tokens_pb2.TileGrid(
        side=grid.side,
        rows=grid.rows,
        columns=grid.columns,
        image_height=grid.image_height,
        image_width=grid.image_width,
        valid_top=grid.valid.top,
        valid_bottom=grid.valid.bottom,
        valid_left=grid.valid.left,
        valid_right=grid.valid.right,
        row_bounds=grid.row_bounds,
        column_bounds=grid.column_bounds,
    )


def grid_from_proto(message: vision_tokens_pb2.TileGrid) -> TileGrid:
    """Validate a received grid.

    Raises:
        InvalidTokensError: a size is zero or too large, the bounds of crops do not fit, or the valid region exceeds the
            canvas.
    """
    if not (0 < message.side <= _MAX_SIDE and bool(message.rows) is bool(message.columns)):
        raise InvalidTokensError(
            f"grid of {message.rows} x {message.columns} crops with side {message.side} is not possible"
        )
    if message.rows * message.columns > _MAX_CROPS:
        raise InvalidTokensError(f"grid has {message.rows * message.columns} crops, more than {_MAX_CROPS}")
    if not (message.image_height and message.image_width):
        raise InvalidTokensError("grid has an image size of zero")
    valid = Region(message.valid_top, message.valid_bottom, message.valid_left, message.valid_right)
    if bool(message.row_bounds) is not bool(message.column_bounds):
        raise InvalidTokensError("grid has bounds of its rows or of its columns of crops; it needs both or neither")
    _check_bounds("row", message.row_bounds, message.rows, message.side)
    _check_bounds("column", message.column_bounds, message.columns, message.side)
    grid = TileGrid(
        *(message.side, message.rows, message.columns, message.image_height, message.image_width, valid),
        *(tuple(message.row_bounds), tuple(message.column_bounds)),
    )
    if not (valid.top <= valid.bottom <= grid.canvas_height and valid.left <= valid.right <= grid.canvas_width):
        raise InvalidTokensError(
            f"valid rows {valid.top}..{valid.bottom} and columns {valid.left}..{valid.right} do not lie on a canvas of "
            f"{grid.canvas_height} x {grid.canvas_width} cells"
        )
    return grid


def _check_bounds(name: str, bounds: Sequence[int], parts: int, side: int) -> None:
    """Check where rows or columns of crops begin; no bounds mean that all are `side` cells long."""
    if bounds and len(bounds) != parts + 1:  # before any arithmetic on as many as a message holds
        raise InvalidTokensError(f"grid has {len(bounds)} {name} bounds; {parts + 1} are needed")
    lengths = [end - start for start, end in pairwise(bounds)]
    if bounds and (bounds[0] or min(lengths, default=0) < 0 or max(lengths, default=0) > side):
        raise InvalidTokensError(
            f"{name} bounds {list(bounds)} do not divide a canvas from 0 on into parts of at most {side} cells"
        )


def split_into_chunks(
    features: TokenTensor, positions: Positions, *, image_index: int, first_chunk: int, chunk_bytes: int
) -> Iterator[vision_tokens_pb2.TokenChunk]:
    """Cut tokens into messages whose payload is at most `chunk_bytes`, but at least one token each."""
    token_bytes = features.columns * features.data_type.itemsize + features.data_type.row_overhead + _POSITION_BYTES
    step = max(chunk_bytes // token_bytes, 1)
    for index, start in enumerate(range(0, features.rows, step)):
        stop = min(start + step, features.rows)
        yield vision_tokens_pb2.TokenChunk(
            image_index=image_index,
            chunk_index=first_chunk + index,
            features=features.slice_rows(start, stop).to_proto(),
            positions=positions[start:stop].astype("<i4").tobytes(),
        )


class TokenAssembler:
    """Assembles one image from its chunks, and refuses chunks that contradict the grid or the budgets.

    Raises (every method):
        InvalidTokensError: states the numbers that disagree.
    """

    def __init__(self, grid: TileGrid, header: vision_tokens_pb2.ImageTokensHeader, *, feature_size: int) -> None:
        """`feature_size` is the format's, from which the header may depart."""
        self._grid = grid
        self._image = header.image_index
        self._feature_size = header.feature_size or feature_size
        self._budgets = tuple(header.budgets)
        self.quotas = tuple(header.quotas) or None  # how many tokens of each tile pruning keeps
        self._features: list[TokenTensor] = []
        self._positions: list[Positions] = []
        self._received = 0
        _check_budgets(grid, self._budgets, self._image)
        if self.quotas is not None:
            _check_quotas(self.quotas, self._budgets, self._image)
        self._expected = sum(self._budgets)

    @property
    def complete(self) -> bool:
        return self._received == self._expected

    def add(self, chunk: vision_tokens_pb2.TokenChunk) -> None:
        """Add the image's next chunk."""
        if chunk.chunk_index != len(self._features):
            self._refuse(f"chunk {chunk.chunk_index} came where chunk {len(self._features)} was expected")
        features = TokenTensor.from_proto(chunk.features)
        if not features.rows:
            self._refuse(f"chunk {chunk.chunk_index} has no tokens")
        if features.columns != self._feature_size:
            self._refuse(f"tokens are {features.columns} wide; {self._feature_size} is needed")
        if self._features and features.data_type is not self._features[0].data_type:
            self._refuse("chunks have different data types")
        if len(chunk.positions) != features.rows * _POSITION_BYTES:
            self._refuse(f"{features.rows} tokens came with {len(chunk.positions)} bytes of positions")
        self._received += features.rows
        if self._received > self._expected:
            self._refuse(f"{self._received} tokens arrived; the header announced {self._expected}")
        self._features.append(features)
        self._positions.append(np.frombuffer(chunk.positions, "<i4").reshape(-1, 3).astype(np.int32))

    def finish(self) -> VisionTokens:
        """Return the whole image, once every token has arrived."""
        if not self.complete:
            self._refuse(f"{self._received} tokens arrived; the header announced {self._expected}")
        positions = np.concatenate(self._positions) if self._positions else np.zeros((0, 3), np.int32)
        self._check_positions(positions)
        if not self._features:
            self._refuse("no token was kept")
        return VisionTokens(self._grid, self._budgets, concatenate(self._features), positions, self.quotas)

    def _check_positions(self, positions: Positions) -> None:
        tile, row, column = positions.T
        expected_tiles = np.repeat(np.arange(self._grid.num_tiles), self._budgets)
        if not np.array_equal(tile, expected_tiles):
            self._refuse("tokens are not grouped by tile as the budgets say")
        regions = [self._grid.valid_in_tile(index) for index in range(self._grid.num_tiles)]
        bounds = np.array([(region.top, region.bottom, region.left, region.right) for region in regions])[tile]
        inside = (row >= bounds[:, 0]) & (row < bounds[:, 1]) & (column >= bounds[:, 2]) & (column < bounds[:, 3])
        if not inside.all():
            first = positions[np.argmin(inside)].tolist()
            self._refuse(f"token at (tile, row, column) {first} lies outside the image")
        cells = (tile.astype(np.int64) * self._grid.side + row) * self._grid.side + column
        if len(np.unique(cells)) != len(cells):
            self._refuse("two tokens have the same position")

    def _refuse(self, reason: str) -> None:
        raise InvalidTokensError(f"image {self._image}: {reason}")


def _check_budgets(grid: TileGrid, budgets: tuple[int, ...], image: int) -> None:
    valid = grid.valid_counts()
    if len(budgets) != len(valid):
        raise InvalidTokensError(f"image {image}: {len(budgets)} budgets for {len(valid)} tiles")
    for tile, (budget, limit) in enumerate(zip(budgets, valid, strict=True)):
        if budget > limit:
            raise InvalidTokensError(f"image {image}: tile {tile} keeps {budget} tokens of only {limit}")


def _check_quotas(quotas: tuple[int, ...], budgets: tuple[int, ...], image: int) -> None:
    if len(quotas) != len(budgets):
        raise InvalidTokensError(f"image {image}: {len(quotas)} quotas for {len(budgets)} tiles")
    for tile, (quota, budget) in enumerate(zip(quotas, budgets, strict=True)):
        if quota > budget:
            raise InvalidTokensError(f"image {image}: tile {tile} has a quota of {quota} but only {budget} tokens")
    if not any(quotas):
        raise InvalidTokensError(f"image {image}: every quota is 0; pruning would leave no token of it")
