"""An image's kept vision tokens, to be kept, stored and asked about."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import visionsplit
from visionsplit.errors import InvalidTokensError
from visionsplit.families import family_named
from visionsplit.grid import TileGrid
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType, DataTypeName, data_type_of
from visionsplit.options.layout import Layout, check_layout
from visionsplit.options.messages import data_type_to_proto
from visionsplit.options.parameters import quoted
from visionsplit.v1 import tensor_pb2, vision_tokens_pb2
from visionsplit.wire.stored_tensors import StoredTensor, read_tensors, write_tensors
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import Positions, TokenAssembler, VisionTokens, grid_from_proto, grid_to_proto

from visionsplit_client._info import VisionFormat
from visionsplit_client._results import EncodeTimings, ImageSummary

_FILE_FORMAT = "visionsplit-tokens/1"
_STORED_TYPE = {DataType.FLOAT32: "F32", DataType.FLOAT16: "F16", DataType.BFLOAT16: "BF16", DataType.INT8: "I8"}
# What reading JSON of another form, or a wrong file, raises on the way.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class EncodedImage:
    """The kept vision tokens of one image and what is needed to ask about them later."""

    tokens: VisionTokens
    format: VisionFormat
    layout: Layout  # for which the tokens were chosen
    summary: ImageSummary
    compression: Compression | None  # as asked for; None means the encoder's default

    @property
    def data_type(self) -> DataTypeName:
        """How the features are stored."""
        return self.tokens.features.data_type.value

    @property
    def own_feature_size(self) -> int:
        """The width of the image's tokens where it differs from the format's; otherwise 0."""
        columns = self.tokens.features.columns
        return 0 if columns == self.format.feature_size else columns

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file: the tensors of `to_tensors`, and the rest as metadata."""
        with Path(path).open("wb") as file:
            self._write(file)

    @classmethod
    def load(cls, path: str | Path) -> "EncodedImage":
        """Read a file written by `save`, and check it as strictly as tokens from the wire.

        Raises:
            OSError: the file cannot be read.
            InvalidTokensError: it is not such a file, or contradicts itself.
        """
        with Path(path).open("rb") as file:
            return cls._read(file, str(path))

    def to_bytes(self) -> bytes:
        """What `save` writes to a file."""
        file = io.BytesIO()
        self._write(file)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "EncodedImage":
        """Read what `to_bytes` gave, or the content of a file written by `save`.

        Raises:
            InvalidTokensError: it is not such content, or contradicts itself.
        """
        return cls._read(io.BytesIO(content), "the content")

    def to_tensors(self) -> dict[str, StoredTensor]:
        """`features` [tokens, width], int8 ones' `scales` [tokens], as on the wire; `positions` [tokens, 3]."""
        features, positions = self.tokens.features, self.tokens.positions
        tensors = {
            "features": StoredTensor(
                _STORED_TYPE[features.data_type], (features.rows, features.columns), features.data
            ),
            "positions": StoredTensor("I32", positions.shape, positions.astype("<i4").tobytes()),
        }
        if features.scales:
            tensors["scales"] = StoredTensor("F32", (features.rows,), features.scales)
        return tensors

    def to_metadata(self) -> dict[str, Any]:
        """What the tensors do not say: JSON values."""
        return {
            "version": visionsplit.__version__,
            "grid": asdict(self.tokens.grid),
            "budgets": self.tokens.budgets,
            "quotas": self.tokens.quotas,
            "format": asdict(self.format),
            "feature_size": self.own_feature_size,
            "layout": self.layout,
            "data_type": self.data_type,
            "compression": None if self.compression is None else asdict(self.compression),
            "tokens_before": self.summary.tokens_before,
            "timings": asdict(self.summary.timings),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, Any]) -> "EncodedImage":
        """Put together what `to_tensors` and `to_metadata` took apart, and check it.

        Raises:
            InvalidTokensError: they contradict each other, or something is missing.
        """
        try:
            return _decode(metadata, tensors)
        except _MALFORMED as error:
            raise InvalidTokensError(f"{type(error).__name__} {error}") from error

    def _write(self, file: BinaryIO) -> None:
        metadata = {"format": _FILE_FORMAT, "visionsplit": json.dumps(self.to_metadata())}
        write_tensors(file, self.to_tensors(), metadata)

    @classmethod
    def _read(cls, file: BinaryIO, name: str) -> "EncodedImage":
        try:
            tensors, metadata = read_tensors(file)
            if metadata.get("format") != _FILE_FORMAT:
                raise InvalidTokensError(f"{name} holds {metadata.get('format')!r}, not {_FILE_FORMAT!r}")
            return _decode(json.loads(metadata["visionsplit"]), tensors)
        except _MALFORMED as error:
            raise InvalidTokensError(
                f"{name} is not a file of vision tokens: {type(error).__name__} {error}"
            ) from error


def _decode(metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> EncodedImage:
    grid = _checked_grid(metadata["grid"])
    format_ = _format(metadata["format"])
    tokens = _checked_tokens(metadata, grid, format_, tensors)
    compression = metadata["compression"]
    layout = metadata["layout"]
    check_layout(layout)
    summary = ImageSummary(
        index=0,
        grid=grid,
        budgets=tokens.budgets,
        tokens_before=int(metadata["tokens_before"]),
        tokens_after=tokens.num_tokens,
        wire_bytes=tokens.num_bytes,
        timings=EncodeTimings(**{name: float(seconds) for name, seconds in metadata["timings"].items()}),
    )
    if summary.tokens_before != sum(grid.valid_counts()):
        raise ValueError(f"{summary.tokens_before} tokens before compression; the grid has {sum(grid.valid_counts())}")
    return EncodedImage(tokens, format_, layout, summary, None if compression is None else Compression(**compression))


def _format(stored: Mapping[str, Any]) -> VisionFormat:
    # Files of versions before families name none: they are of the only family that there was.
    family = family_named(str(stored.get("family", "")))
    if family is None:
        raise ValueError(f"the tokens are of family {quoted(str(stored['family']))}, which this version does not know")
    return VisionFormat(int(stored["feature_size"]), str(stored["encoder_fingerprint"]), family.name)


def _checked_grid(stored: Mapping[str, Any]) -> TileGrid:
    """Take the stored grid through the checks that one from the wire gets."""
    return grid_from_proto(grid_to_proto(TileGrid.of_values(stored)))


def _checked_tokens(
    metadata: Mapping[str, Any], grid: TileGrid, format_: VisionFormat, tensors: Mapping[str, StoredTensor]
) -> VisionTokens:
    """Take the stored tensors through the checks that one chunk from the wire gets."""
    data_type = data_type_of(metadata["data_type"])
    features, positions, scales = tensors["features"], tensors["positions"], tensors.get("scales")
    found = (features.dtype, positions.dtype, "F32" if scales is None else scales.dtype)
    if found != (_STORED_TYPE[data_type], "I32", "F32"):
        raise ValueError(f"features, positions and scales of types {', '.join(found)}")
    chunk = vision_tokens_pb2.TokenChunk(
        features=tensor_pb2.Tensor(
            data_type=data_type_to_proto(data_type),
            shape=features.shape,
            data=features.data,
            scales=b"" if scales is None else scales.data,
        ),
        positions=positions.data,
    )
    # Files of versions before quotas, and before images with tokens of another width, have none.
    header = vision_tokens_pb2.ImageTokensHeader(
        budgets=metadata["budgets"], quotas=metadata.get("quotas"), feature_size=metadata.get("feature_size", 0)
    )
    assembler = TokenAssembler(grid, header, feature_size=format_.feature_size)
    assembler.add(chunk)
    return assembler.finish()


@dataclass(frozen=True)
class EncodeStarted:
    """Event: the image is cut; its tokens follow."""

    grid: TileGrid
    budgets: tuple[int, ...]  # tokens that each tile keeps, thumbnail first
    quotas: tuple[int, ...] | None  # of these, those that `Pruning` is to keep; None without `quotas_only`
    format: VisionFormat
    layout: Layout


@dataclass(frozen=True)
class TokensArrived:
    """Event: some of the kept tokens, tile after tile, the thumbnail's first."""

    features: TokenTensor  # [tokens, feature_size]
    positions: Positions  # [tokens, 3] int32: tile, row and column within the tile

    @classmethod
    def from_proto(cls, chunk: vision_tokens_pb2.TokenChunk) -> "TokensArrived":
        """The content of a chunk that a TokenAssembler has accepted."""
        positions = np.frombuffer(chunk.positions, "<i4").reshape(-1, 3).astype(np.int32)
        return cls(TokenTensor.from_proto(chunk.features), positions)


@dataclass(frozen=True)
class Encoded:
    """Event: the last one, with the whole image."""

    image: EncodedImage


EncodeEvent = EncodeStarted | TokensArrived | Encoded
