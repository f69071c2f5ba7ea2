"""Assembles the vision tokens of all images of one request from messages that arrive in any order of images."""

from collections.abc import Sequence

from visionsplit.errors import InvalidTokensError
from visionsplit.grid import TileGrid
from visionsplit.v1 import vision_tokens_pb2
from visionsplit.wire.vision_tokens import TokenAssembler, VisionTokens


class RequestTokens:
    """Assembles the images of one request and refuses messages that contradict the request's header.

    An encoder sends tokens as soon as they are ready, and an image that it has cached is ready before one that it still
    to encode. So the images may arrive in any order and their messages may interleave; only the chunks of one image are
    ordered.

    Raises (every method):
        InvalidTokensError: states which image and which message.
    """

    def __init__(self, grids: Sequence[TileGrid], *, feature_size: int) -> None:
        """`grids` are the grids of the request's images, in the order of the prompt's placeholders."""
        self._grids = tuple(grids)
        self._feature_size = feature_size
        self._assemblers: dict[int, TokenAssembler] = {}  # by image index, in the order in which the headers arrived
        self.num_tokens = 0  # vision tokens that the tokens headers have announced

    @property
    def num_announced(self) -> int:
        """The number of images whose tokens header has arrived."""
        return len(self._assemblers)

    @property
    def num_missing(self) -> int:
        """The number of images whose tokens header has not arrived."""
        return len(self._grids) - len(self._assemblers)

    @property
    def quotas(self) -> dict[int, tuple[int, ...] | None]:
        """Quotas of the images whose tokens header has arrived, by image index, in the order of arrival."""
        return {index: assembler.quotas for index, assembler in self._assemblers.items()}

    def add_header(self, header: vision_tokens_pb2.ImageTokensHeader) -> None:
        """Add the tokens header of an image; it precedes the image's chunks."""
        index = header.image_index
        if index >= len(self._grids):
            raise InvalidTokensError(f"a tokens header is of image {index}; the request has {len(self._grids)} images")
        if index in self._assemblers:
            raise InvalidTokensError(f"the tokens header of image {index} arrived twice")
        self._assemblers[index] = TokenAssembler(self._grids[index], header, feature_size=self._feature_size)
        self.num_tokens += sum(header.budgets)

    def add_chunk(self, chunk: vision_tokens_pb2.TokenChunk) -> None:
        """Add the next chunk of an image."""
        assembler = self._assemblers.get(chunk.image_index)
        if assembler is None:
            raise InvalidTokensError(f"tokens of image {chunk.image_index} arrived before that image's tokens header")
        assembler.add(chunk)

    def finish(self) -> tuple[VisionTokens, ...]:
        """Return all images, in the order of the placeholders, once everything has arrived."""
        if self.num_missing:
            raise InvalidTokensError(
                f"the upload ended after {self.num_announced} of {len(self._grids)} images had begun"
            )
        return tuple(self._assemblers[index].finish() for index in range(len(self._grids)))
