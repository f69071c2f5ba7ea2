"""Client SDK of visionsplit: ask questions about high-resolution images. Needs no PyTorch.

from visionsplit_client import Client, Compression

with Client("127.0.0.1:50051") as client:
    answer = client.generate("photo.jpg", "What is this?", compression=Compression("globalcom2", 0.1))
    print(answer.text, answer.usage.vision_tokens, "of", answer.usage.vision_tokens_before)
"""

from visionsplit.errors import (
    CancelledError,
    DeadlineError,
    IncompatibleServicesError,
    InternalError,
    InvalidCompressionError,
    InvalidImageError,
    InvalidPromptError,
    InvalidPruningError,
    InvalidRequestError,
    InvalidSamplingError,
    InvalidTokensError,
    OverloadedError,
    PromptTooLongError,
    UnauthenticatedError,
    UnavailableError,
    UnknownFieldError,
    VisionSplitError,
)
from visionsplit.grid import Region, TileGrid
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType, DataTypeName
from visionsplit.options.layout import Layout
from visionsplit.options.prefill import PositionIds, Pruning
from visionsplit.options.sampling import Sampling
from visionsplit.security.client import ClientSecurity
from visionsplit.security.reloaded_files import CredentialsError
from visionsplit.security.tls import ClientTls
from visionsplit.security.tokens import BearerToken
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import VisionTokens

from visionsplit_client._async_calls import AsyncEventStream
from visionsplit_client._async_client import AsyncClient
from visionsplit_client._base import DEFAULT_ENCODER
from visionsplit_client._calls import EventStream
from visionsplit_client._client import Client
from visionsplit_client._encoded import Encoded, EncodedImage, EncodeEvent, EncodeStarted, TokensArrived
from visionsplit_client._errors import ImageFetchError, UnreachableError
from visionsplit_client._images import ImageSource, read_image
from visionsplit_client._info import EncoderInfo, Health, HealthStatus, LlmInfo, NamedChoice, VisionFormat
from visionsplit_client._prompts import ImagePart, Message, Prompt
from visionsplit_client._results import (
    CacheUse,
    EncodeTimings,
    Finished,
    FinishReason,
    Generation,
    GenerationEvent,
    ImageEncoded,
    ImageSummary,
    LlmTimings,
    TextDelta,
    Usage,
)
from visionsplit_client._settings import Limits, Retries, Timeouts
from visionsplit_client._transport import AsyncGrpcTransport, AsyncTransport, GrpcTransport, Transport

__all__ = [
    "DEFAULT_ENCODER",
    "AsyncClient",
    "AsyncEventStream",
    "AsyncGrpcTransport",
    "AsyncTransport",
    "BearerToken",
    "CacheUse",
    "CancelledError",
    "Client",
    "ClientSecurity",
    "ClientTls",
    "Compression",
    "CredentialsError",
    "DataType",
    "DataTypeName",
    "DeadlineError",
    "EncodeEvent",
    "EncodeStarted",
    "EncodeTimings",
    "Encoded",
    "EncodedImage",
    "EncoderInfo",
    "EventStream",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationEvent",
    "GrpcTransport",
    "Health",
    "HealthStatus",
    "ImageEncoded",
    "ImageFetchError",
    "ImagePart",
    "ImageSource",
    "ImageSummary",
    "IncompatibleServicesError",
    "InternalError",
    "InvalidCompressionError",
    "InvalidImageError",
    "InvalidPromptError",
    "InvalidPruningError",
    "InvalidRequestError",
    "InvalidSamplingError",
    "InvalidTokensError",
    "Layout",
    "Limits",
    "LlmInfo",
    "LlmTimings",
    "Message",
    "NamedChoice",
    "OverloadedError",
    "PositionIds",
    "Prompt",
    "PromptTooLongError",
    "Pruning",
    "Region",
    "Retries",
    "Sampling",
    "TextDelta",
    "TileGrid",
    "Timeouts",
    "TokenTensor",
    "TokensArrived",
    "Transport",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownFieldError",
    "UnreachableError",
    "Usage",
    "VisionFormat",
    "VisionSplitError",
    "VisionTokens",
    "read_image",
]
