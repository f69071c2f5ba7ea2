"""Builds the protocol's requests. No input or output happens here."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from visionsplit.network.transport import DEFAULT_CHUNK_BYTES
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataTypeName, data_type_of
from visionsplit.options.messages import (
    compression_to_proto,
    data_type_to_proto,
    layout_to_proto,
    prefill_to_proto,
    sampling_to_proto,
)
from visionsplit.options.prefill import PositionIds, Prefill, Pruning
from visionsplit.options.sampling import Sampling
from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import grid_to_proto, split_into_chunks

from visionsplit_client._encoded import EncodedImage
from visionsplit_client._results import ImageSummary

_ValueT = TypeVar("_ValueT")
_MessageT = TypeVar("_MessageT")


def encode_request(
    image: bytes, compression: Compression | None, data_type: DataTypeName | None
) -> encoder_service_pb2.EncodeRequest:
    return encoder_service_pb2.EncodeRequest(
        image=encoder_service_pb2.Image(data=image),
        compression=_message(compression, Compression, compression_to_proto),
        data_type=_data_type(data_type),
    )


def generate_request(
    images: Sequence[bytes],
    prompt: generation_pb2.Prompt,
    compression: Compression | None,
    data_type: DataTypeName | None,
    sampling: Sampling | None,
    prefill: generation_pb2.Prefill | None,
) -> encoder_service_pb2.EncoderServiceGenerateRequest:
    return encoder_service_pb2.EncoderServiceGenerateRequest(
        images=[encoder_service_pb2.Image(data=image) for image in images],
        prompt=prompt,
        compression=_message(compression, Compression, compression_to_proto),
        data_type=_data_type(data_type),
        sampling=_message(sampling, Sampling, sampling_to_proto),
        prefill=prefill,
    )


def token_upload(
    images: Sequence[EncodedImage],
    prompt: generation_pb2.Prompt,
    sampling: Sampling | None,
    prefill: generation_pb2.Prefill | None,
) -> Iterator[llm_service_pb2.LlmServiceGenerateRequest]:
    """The parts of one upload: the header, then each image's tokens."""
    header = llm_service_pb2.GenerateHeader(
        prompt=prompt,
        sampling=_message(sampling, Sampling, sampling_to_proto),
        grids=[grid_to_proto(image.tokens.grid) for image in images],
        format=images[0].format.to_proto() if images else None,
        layout=layout_to_proto(images[0].layout if images else "spatial"),
        prefill=prefill,
    )
    yield llm_service_pb2.LlmServiceGenerateRequest(header=header)
    for index, image in enumerate(images):
        tokens = vision_tokens_pb2.ImageTokensHeader(
            image_index=index,
            budgets=image.tokens.budgets,
            quotas=image.tokens.quotas,
            feature_size=image.own_feature_size,
        )
        yield llm_service_pb2.LlmServiceGenerateRequest(image=tokens)
        for chunk in split_into_chunks(
            image.tokens.features,
            image.tokens.positions,
            image_index=index,
            first_chunk=0,
            chunk_bytes=DEFAULT_CHUNK_BYTES,
        ):
            yield llm_service_pb2.LlmServiceGenerateRequest(tokens=chunk)


def prefill_of(pruning: Pruning | None, position_ids: PositionIds | None) -> generation_pb2.Prefill | None:
    """None where nothing is asked for.

    Raises:
        ValueError: an unknown name of position ids.
    """
    if pruning is None and position_ids is None:
        return None
    return prefill_to_proto(Prefill(pruning, position_ids or "renumbered"))


def check_same_kind(images: Sequence[EncodedImage]) -> None:
    """Raises ValueError unless all images come from one encoder and were encoded for one layout."""
    if len({image.format for image in images}) > 1:
        raise ValueError("the images were encoded by different encoders; one call takes those of one encoder")
    if len({image.layout for image in images}) > 1:
        raise ValueError("the images were encoded for different layouts; one call takes one layout")


def renumbered(images: Sequence[EncodedImage]) -> list[ImageSummary]:
    """The images' summaries with their positions in this call."""
    return [dataclasses.replace(image.summary, index=index) for index, image in enumerate(images)]


def _message(value: _ValueT | None, kind: type[_ValueT], convert: Callable[[_ValueT], _MessageT]) -> _MessageT | None:
    """The protocol's form of an argument.

    Raises:
        TypeError: it is of another type, such as a bare ratio.
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{kind.__name__.lower()} is {value!r}; visionsplit_client.{kind.__name__}(...) is needed")
    return None if value is None else convert(value)


def _data_type(name: DataTypeName | None) -> "tensor_pb2.DataType.ValueType":
    return tensor_pb2.DATA_TYPE_UNSPECIFIED if name is None else data_type_to_proto(data_type_of(name))
