"""Receives a request and checks all of it before it reaches a replica."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from visionsplit.errors import (
    IncompatibleServicesError,
    InvalidRequestError,
    InvalidTokensError,
    PromptTooLongError,
)
from visionsplit.families import UNNAMED
from visionsplit.families.base import Family
from visionsplit.grid import TileGrid
from visionsplit.options.layout import Layout
from visionsplit.options.messages import layout_from_proto, prefill_from_proto, sampling_from_proto
from visionsplit.options.parameters import quoted
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.receiving.prompts import check_prompt_message
from visionsplit.v1 import llm_service_pb2, vision_tokens_pb2
from visionsplit.wire.request_tokens import RequestTokens
from visionsplit.wire.vision_tokens import VisionTokens, grid_from_proto

from llm_service.gateway.accepted import Accepted
from llm_service.gateway.messages import prompt_from_proto
from llm_service.gateway.prefill import CheckedPrefill
from llm_service.gateway.uploads import Reception
from llm_service.prompts.turns import PromptTurns

RequestStream = AsyncIterator[llm_service_pb2.LlmServiceGenerateRequest]
_MOST_BYTES_OF_NUMBER = 4  # an upper bound, since the tokens' data type is known only from their first chunk


@dataclass(frozen=True)
class TokenCounts:
    """The number of a prompt's tokens by kind."""

    text: int
    vision: int
    newlines: int

    @property
    def prompt(self) -> int:
        return self.text + self.vision + self.newlines


@dataclass(frozen=True)
class Upload:
    """A complete and valid request."""

    token_ids: tuple[int, ...]
    images: tuple[VisionTokens, ...]
    layout: Layout
    prefill: CheckedPrefill
    sampling: ResolvedSampling
    counts: TokenCounts

    @property
    def vision_tokens_before(self) -> int:
        """The number of the images' vision tokens without compression."""
        return sum(sum(image.grid.valid_counts()) for image in self.images)

    @property
    def wire_bytes(self) -> int:
        """Bytes of features, scales and positions."""
        return sum(image.num_bytes for image in self.images)


@dataclass
class _Receiving:
    """A request whose header has arrived."""

    token_ids: tuple[int, ...]
    grids: tuple[TileGrid, ...]
    layout: Layout
    prefill: CheckedPrefill
    sampling: ResolvedSampling
    tokens: RequestTokens
    family: Family
    reserve: Callable[[int], None]

    @property
    def counts(self) -> TokenCounts:
        return self._with(self.tokens.num_tokens)

    @property
    def uncompressed(self) -> TokenCounts:
        """The number of the prompt's tokens if the encoder had kept every one."""
        return self._with(sum(sum(grid.valid_counts()) for grid in self.grids))

    def _with(self, vision_tokens: int) -> TokenCounts:
        newlines = sum(self.family.num_newlines(grid, self.layout) for grid in self.grids)
        runs = sum(self.family.num_runs(grid) for grid in self.grids)
        return TokenCounts(len(self.token_ids) - runs, vision_tokens, newlines)


class UploadReceiver:
    """Reads the message streams of requests."""

    def __init__(self, accepted: Accepted, prompts: PromptTurns) -> None:
        self._accepted = accepted
        self._prompts = prompts

    async def receive(
        self, stream: RequestStream, caller: str, reception: Reception, admit: Callable[[CheckedPrefill, int], None]
    ) -> Upload:
        """Read until the client closes its side. The images may arrive in any order; see `RequestTokens`.

        Args:
            stream: the request's messages.
            caller: callers take turns.
            reception: called when the header and each further message arrive, and with how many bytes an image's tokens
                will take, before they come; may refuse.
            admit: called once with the prefill and the number of images; may refuse.

        Raises:
            OverloadedError: of `reception` and `admit`.
            InvalidRequestError: the first thing that is wrong, by one of its subclasses.
            IncompatibleServicesError: tokens of another encoder.
        """
        receiving: _Receiving | None = None
        message: llm_service_pb2.LlmServiceGenerateRequest | None
        while (message := await anext(stream, None)) is not None:
            reception.note_progress()
            part = message.WhichOneof("part")
            if part == "header":
                check_prompt_message(message.header.prompt)
            if receiving is None:
                if part != "header":
                    raise InvalidTokensError("the first message of a request must be its header")
                reception.begin()
                receiving = await self._begin(message.header, caller, reception.reserve)
                admit(receiving.prefill, len(receiving.grids))
            elif part == "image":
                self._add_image(receiving, message.image)
            elif part == "tokens":
                receiving.tokens.add_chunk(message.tokens)
            else:
                raise InvalidTokensError("a second header came" if part else "a message is empty")
            message = None  # otherwise a header of some MiB would stay in memory while the next message is awaited
        if receiving is None:
            raise InvalidTokensError("the request ended before its header")
        return Upload(
            receiving.token_ids,
            receiving.tokens.finish(),
            receiving.layout,
            receiving.prefill,
            receiving.sampling,
            receiving.counts,
        )

    async def _begin(
        self, header: llm_service_pb2.GenerateHeader, caller: str, reserve: Callable[[int], None]
    ) -> _Receiving:
        limits = self._accepted.limits
        if len(header.grids) > limits.max_images:
            raise InvalidRequestError(f"{len(header.grids)} images; at most {limits.max_images} are taken")
        layout = layout_from_proto(header.layout)
        if header.grids:
            self._check_format(header.format if header.HasField("format") else None, layout)
        grids = tuple(self._checked_grid(index, grid) for index, grid in enumerate(header.grids))
        prefill = CheckedPrefill.of(
            prefill_from_proto(header.prefill), self._accepted, layout=layout, num_images=len(grids)
        )
        sampling = sampling_from_proto(header.sampling).resolve(
            max_new_tokens=limits.default_max_new_tokens,
            repetition_penalty=self._accepted.default_repetition_penalty,
        )
        token_ids = await self._prompts.encode(prompt_from_proto(header.prompt), grids, caller)
        tokens = RequestTokens(grids, feature_size=self._accepted.feature_size)
        receiving = _Receiving(token_ids, grids, layout, prefill, sampling, tokens, self._accepted.family, reserve)
        self._check_length(receiving)
        self._check_places(receiving)
        return receiving

    def _check_format(self, format_: vision_tokens_pb2.VisionFormat | None, layout: Layout) -> None:
        if format_ is None:
            raise InvalidTokensError("the header has images but no format")
        family, given = self._accepted.family, format_.family or UNNAMED
        if given != family.name:
            raise IncompatibleServicesError(
                f"the vision tokens are of the family {quoted(given)}; this service's checkpoint is of {family.name!r}"
            )
        if layout not in family.layouts:
            raise InvalidRequestError(f"layout {layout!r} is not defined for the family {family.name!r}")
        if format_.encoder_fingerprint != self._accepted.encoder_fingerprint:
            raise IncompatibleServicesError(
                f"the vision tokens come from encoder {format_.encoder_fingerprint[:64]!r}; this service was started "
                f"from the checkpoint of encoder {self._accepted.encoder_fingerprint!r}"
            )
        if format_.feature_size != self._accepted.feature_size:
            raise InvalidTokensError(f"tokens are {format_.feature_size} wide; {self._accepted.feature_size} is needed")

    def _checked_grid(self, index: int, message: vision_tokens_pb2.TileGrid) -> TileGrid:
        grid = grid_from_proto(message)
        try:
            self._accepted.cutting.check(grid)
        except InvalidTokensError as error:
            raise InvalidTokensError(f"image {index}: {error}") from error
        return grid

    def _add_image(self, receiving: _Receiving, header: vision_tokens_pb2.ImageTokensHeader) -> None:
        receiving.tokens.add_header(header)
        width = self._accepted.settings.width(receiving.grids[header.image_index])
        if (header.feature_size or self._accepted.feature_size) != width:
            raise InvalidTokensError(
                f"image {header.image_index}: tokens are {header.feature_size or self._accepted.feature_size} wide; "
                f"{width} is needed"
            )
        receiving.prefill = receiving.prefill.with_quotas(receiving.tokens.quotas)
        # Checked before the tokens themselves take memory.
        self._check_length(receiving)
        receiving.reserve(sum(header.budgets) * width * _MOST_BYTES_OF_NUMBER)

    def _check_length(self, receiving: _Receiving) -> None:
        counts, new = receiving.counts, receiving.sampling.max_new_tokens
        if counts.prompt + new > self._accepted.context_length:
            missing = receiving.tokens.num_missing
            vision = f", {counts.vision} vision" if receiving.tokens.num_announced else ""
            to_come = (
                f", without the vision tokens of {missing} image{'s' * (missing > 1)} yet to come" if missing else ""
            )
            raise PromptTooLongError(
                f"prompt of {counts.prompt} tokens ({counts.text} text{vision}, {counts.newlines} newlines{to_come}) "
                f"and {new} new tokens need {counts.prompt + new}; a replica holds {self._accepted.context_length}"
            )

    def _check_places(self, receiving: _Receiving) -> None:
        """Check positions: original ones leave gaps, so few tokens may exceed the position encoding."""
        counts, new = receiving.uncompressed, receiving.sampling.max_new_tokens
        if receiving.prefill.position_ids == "renumbered":
            return
        if counts.prompt + new > self._accepted.max_places:
            raise PromptTooLongError(
                f"original position ids are those of the uncompressed prompt of {counts.prompt} tokens ({counts.text} "
                f"text, {counts.vision} vision, {counts.newlines} newlines); with {new} new tokens it needs "
                f"{counts.prompt + new} places; the checkpoint has {self._accepted.max_places}"
            )
