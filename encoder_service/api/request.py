"""The part of a request that Encode and Generate share, checked before any work."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import Message
from visionsplit.errors import InvalidCompressionError, InvalidRequestError
from visionsplit.network.transport import KIB
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.options.messages import compression_from_proto, data_type_from_proto
from visionsplit.receiving.prompts import check_prompt_message
from visionsplit.v1 import encoder_service_pb2, generation_pb2

from encoder_service.api.messages import asked_text
from encoder_service.compression import Abilities, Composition, compose
from encoder_service.device.text_tower import MAX_TEXT_BYTES

_MAX_SETTINGS_BYTES = 64 * KIB  # the largest part is guidance, which has `MAX_TEXT_BYTES`

Request: TypeAlias = encoder_service_pb2.EncodeRequest | encoder_service_pb2.EncoderServiceGenerateRequest


@dataclass(frozen=True)
class CheckedRequest:
    """How images are to be encoded, and for whom."""

    composition: Composition
    data_type: DataType
    text: str | None  # that decides what is kept, where the composition reads one
    started: float  # seconds of time.monotonic
    caller: str  # callers take turns
    method: str  # the row of the table that the request names


@dataclass(frozen=True, kw_only=True)
class RequestChecker:
    """Knows what the service allows, and what it does where a request says nothing."""

    max_images: int
    default_compression: Compression
    default_data_type: DataType
    placeholder: str | None  # of an image in a finished prompt; None if no text tower reads prompts
    abilities: Abilities

    def check(self, request: Request, caller: str) -> CheckedRequest:
        """Refuse what is wrong before any work.

        Raises:
            InvalidRequestError: says what and where.
        """
        started = time.monotonic()
        _check_sizes(request)
        if isinstance(request, encoder_service_pb2.EncodeRequest):
            images: Sequence[encoder_service_pb2.Image] = [request.image]
        else:
            images = request.images
        if len(images) > self.max_images:
            raise InvalidRequestError(f"{len(images)} images; a request may have {self.max_images}")
        if request.HasField("compression"):
            asked = compression_from_proto(request.compression)
        else:
            asked = self.default_compression
        if asked.quotas_only and isinstance(request, encoder_service_pb2.EncoderServiceGenerateRequest):
            _check_someone_prunes(request.prefill)
        data_type = data_type_from_proto(request.data_type, self.default_data_type)
        composition = compose(asked, self.abilities)
        text = self._text(request, asked, composition) if composition.reads_text and images else None
        return CheckedRequest(composition, data_type, text, started, caller, asked.method)

    def _text(self, request: Request, asked: Compression, composition: Composition) -> str:
        """The text by which tokens are kept.

        Raises:
            InvalidCompressionError: no text tower is loaded, there is no text, or it is too long.
            InvalidPromptError: the prompt has none.
        """
        reader = f"method {asked.method!r}" if asked.score is None else f"score {composition.score.name!r}"
        if self.placeholder is None:
            raise InvalidCompressionError(
                f"{reader} reads a text; this encoder has no text tower, which its option --text-tower would load"
            )
        text = asked.guidance
        if text is None and isinstance(request, encoder_service_pb2.EncoderServiceGenerateRequest):
            text = asked_text(request.prompt, self.placeholder)
        if text is None:
            raise InvalidCompressionError(f"{reader} reads a text, and encoding alone has no prompt; it needs guidance")
        if (num_bytes := len(text.encode())) > MAX_TEXT_BYTES:
            what = "the prompt's text" if asked.guidance is None else "guidance"
            raise InvalidCompressionError(f"{what} has {num_bytes} bytes; {reader} reads {MAX_TEXT_BYTES} at most")
        return text


def _check_sizes(request: Request) -> None:
    """Refuse what is too large beside the images, before any text of it is decoded or passed on."""
    settings: dict[str, Message] = {"compression": request.compression}
    if isinstance(request, encoder_service_pb2.EncoderServiceGenerateRequest):
        check_prompt_message(request.prompt)
        settings |= {"sampling": request.sampling, "prefill": request.prefill}
    for name, message in settings.items():
        if (num_bytes := message.ByteSize()) > _MAX_SETTINGS_BYTES:
            raise InvalidRequestError(f"{name} has {num_bytes} bytes; at most {_MAX_SETTINGS_BYTES} are accepted")


def _check_someone_prunes(prefill: generation_pb2.Prefill) -> None:
    """Quotas say what pruning in the language model is to keep; whether its method takes them is the LLM service's to
    check."""
    if not prefill.HasField("pruning"):
        raise InvalidCompressionError(
            "quotas_only sends every token and leaves the choice to pruning in the language model; "
            "the request asks for no pruning"
        )
