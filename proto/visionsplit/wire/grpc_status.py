"""Maps errors to gRPC statuses and back; the only module that knows both."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from visionsplit import errors

ERROR_METADATA_KEY = "visionsplit-error"
# gRPC's standard key for a google.rpc.Status, in which an overloaded service puts a google.rpc.RetryInfo.
STATUS_METADATA_KEY = "grpc-status-details-bin"

# Limit on the encoded text. gRPC limits all of a call's trailing metadata, to 8 KiB unless both ends agree on more, and
# replaces a larger status by a generic one.
_MAX_DETAILS_BYTES = 4096
_ELLIPSIS = "…"
# Limit on the text of a status that is also sent inside `STATUS_METADATA_KEY`, and so travels twice.
_MAX_TWICE_SENT_BYTES = 1024

# Looked up along an error's class hierarchy, so that a subclass inherits its base's status.
_STATUS_OF: dict[type[errors.VisionSplitError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.IncompatibleServicesError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CancelledError: grpc.StatusCode.CANCELLED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
_CLASS_OF = {status: cls for cls, status in _STATUS_OF.items()}
_BY_NAME: dict[str, type[errors.VisionSplitError]] = {name: getattr(errors, name) for name in errors.__all__}


def status_of(error: errors.VisionSplitError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    for cls in type(error).__mro__:
        if cls in _STATUS_OF:
            return _STATUS_OF[cls]
    return grpc.StatusCode.INTERNAL


def error_from_rpc(rpc_error: grpc.RpcError) -> errors.VisionSplitError:
    """The error behind a failed call: of the class that the server named, else of the class for its status."""
    code = rpc_error.code()
    details = rpc_error.details() or code.name
    metadata: Iterable[tuple[str, str | bytes]] = rpc_error.trailing_metadata() or ()  # type: ignore[assignment]
    named = {key: value for key, value in metadata}  # noqa: C416 - not a mapping
    cls = _BY_NAME.get(str(named.get(ERROR_METADATA_KEY, ""))) or _CLASS_OF.get(code, errors.InternalError)
    if cls is errors.OverloadedError:
        return errors.OverloadedError(details, _retry_after(named.get(STATUS_METADATA_KEY)))
    return cls(details)


def set_status(context: grpc.aio.ServicerContext[Any, Any], error: errors.VisionSplitError) -> None:
    """Let a call end with an error's status when its method returns.

    This replaces `context.abort`: gRPC keeps the exception that `abort` raises with the call, and the frames of that
    exception hold the call. The cycle would keep the request and the call's stream alive until the garbage collector
    runs. A connection may have only some hundred streams, so after that many refusals it would serve no further call.
    """
    details, metadata = status_parts(error)
    context.set_trailing_metadata(metadata)
    context.set_code(status_of(error))
    context.set_details(details)


def status_parts(error: errors.VisionSplitError) -> tuple[str, tuple[tuple[str, str | bytes], ...]]:
    """The text and the trailing metadata of an error's status."""
    named = (ERROR_METADATA_KEY, type(error).__name__)
    if not isinstance(error, errors.OverloadedError) or error.retry_after_seconds is None:
        return _shortened(str(error), _MAX_DETAILS_BYTES), (named,)
    details = _shortened(str(error), _MAX_TWICE_SENT_BYTES)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
    code: int = status_of(error).value[0]
    status = status_pb2.Status(code=code, message=details)
    status.details.add().Pack(retry)
    return details, (named, (STATUS_METADATA_KEY, status.SerializeToString()))


def _retry_after(status: str | bytes | None) -> float | None:
    """Seconds of the RetryInfo in a serialised google.rpc.Status; None if there is none or it cannot be parsed."""
    if not isinstance(status, bytes):
        return None
    retry = error_details_pb2.RetryInfo()
    try:
        found = any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(status).details)
    except DecodeError:
        return None
    seconds: float = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return seconds if found and seconds >= 0 else None


def _shortened(details: str, most_bytes: int) -> str:
    """A status's text, shortened to what may be sent."""
    ends = list(accumulate(map(_encoded_size, details[: most_bytes + 1])))
    if not ends or ends[-1] <= most_bytes:
        return details
    return details[: bisect_right(ends, most_bytes - _encoded_size(_ELLIPSIS))] + _ELLIPSIS


def _encoded_size(character: str) -> int:
    """Encoded size of a character in a status's text: 1 byte for printable ASCII but %, else %XX per UTF-8 byte."""
    return 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode("utf-8", "replace"))
