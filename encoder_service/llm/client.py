"""The encoder's side of `LlmService.Generate`: an upload that may be refused at any moment, then text."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2
from visionsplit.errors import (
    CancelledError,
    DeadlineError,
    IncompatibleServicesError,
    InternalError,
    InvalidTokensError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
    UnknownFieldError,
    VisionSplitError,
)
from visionsplit.serving.caller import CALLER_KEY
from visionsplit.serving.health import INSTANCE_KEY
from visionsplit.telemetry.tracing import carrier_of
from visionsplit.v1 import generation_pb2, llm_service_pb2
from visionsplit.wire.grpc_status import ERROR_METADATA_KEY, error_from_rpc
from visionsplit.wire.request_id import REQUEST_ID_KEY
from visionsplit.wire.upload_status import UploadStatus

from encoder_service.llm.channel import LlmConnection

_log = logging.getLogger(__name__)

_SERVICE_NAME: str = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name
_Request = llm_service_pb2.LlmServiceGenerateRequest
_Response = llm_service_pb2.LlmServiceGenerateResponse
_Call: TypeAlias = "grpc.aio.StreamStreamCall[_Request, _Response]"


@dataclass(frozen=True)
class LlmHealth:
    """The answer of an LLM service to a health check."""

    serving: bool
    instance: str | None  # a random value for each start of the service; None if the service does not report it


@dataclass(frozen=True, order=True)
class Checkpoint:
    """The checkpoint of an LLM service."""

    name: str
    encoder_fingerprint: str  # of the vision tower whose tokens it accepts


class LlmClient:
    """Calls an LLM service over a connection, which it owns."""

    def __init__(self, connection: LlmConnection) -> None:
        self._connection = connection

    async def close(self) -> None:
        await self._connection.close()

    async def health(self) -> LlmHealth:
        """Whether the LLM service accepts calls.

        Raises:
            VisionSplitError: there is no answer, or the answer is not an LLM service's. The encoder logs the text.
        """
        call = self._connection.health().Check(
            health_pb2.HealthCheckRequest(service=_SERVICE_NAME), metadata=self._connection.metadata()
        )
        try:
            response = await call
            trailing = await call.trailing_metadata()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        instance = next((str(value) for key, value in trailing if key == INSTANCE_KEY), None)
        return LlmHealth(response.status == health_pb2.HealthCheckResponse.SERVING, instance)

    async def checkpoint(self) -> Checkpoint:
        """The checkpoint and settings that the LLM service runs.

        Raises:
            VisionSplitError: as `health`.
        """
        request = llm_service_pb2.GetLlmInfoRequest()
        try:
            info = await self._connection.stub().GetLlmInfo(request, metadata=self._connection.metadata())
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from None
        return Checkpoint(info.model, info.format.encoder_fingerprint)

    def generate(self, *, timeout_seconds: float | None, request_id: str, caller: str) -> "LlmCall":
        """Start a call. End it with `LlmCall.cancel`, whether it succeeded or not."""
        who = ((REQUEST_ID_KEY, request_id), (CALLER_KEY, caller), *self._connection.metadata())
        metadata = grpc.aio.Metadata(*who, *carrier_of().items())
        return LlmCall(self._connection.stub().Generate(timeout=timeout_seconds, metadata=metadata))


class LlmCall:
    """One generation under way. One task sends, one task reads.

    Raises (every method): the LLM service's own error, by its class; UnavailableError if it cannot be reached.
    """

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._status = UploadStatus(call)

    def cancel(self) -> None:
        """Cancel the call; has no effect if it has ended."""
        self._call.cancel()

    async def send(self, request: _Request) -> None:
        """Send one message of the upload."""
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self.failure() from None

    async def finish_upload(self) -> None:
        """Close the request stream: everything has been sent."""
        try:
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self.failure() from None

    async def ended(self) -> None:
        """Wait until the call has a status, successful or not."""
        await self._status.ended()

    async def events(self) -> AsyncGenerator[generation_pb2.TextDelta | generation_pb2.GenerationSummary, None]:
        """Yield the text as it arrives; the summary ends it."""
        try:
            async for response in self._call:
                if response.WhichOneof("event") == "summary":
                    yield response.summary
                    return
                yield response.delta
        except grpc.aio.AioRpcError as error:
            raise _error_of(error) from None
        raise InternalError("the LLM service ended its answer without a summary")

    async def failure(self) -> VisionSplitError:
        """The reason why the call ended before its upload was complete."""
        status = await self._status.get()
        if status is None:
            return UnavailableError("the connection to the LLM service was lost during the upload")
        if status.code() is grpc.StatusCode.OK:
            return InternalError("the LLM service answered before the upload was complete")
        return _error_of(status)


def _error_of(error: grpc.RpcError) -> VisionSplitError:
    """The error for the encoder's caller when a call to the LLM service fails.

    The LLM service blames its client, which is the encoder. What the encoder only passes on (prompt, sampling, pruning)
    is the caller's, so errors about these keep their class. Errors about what the encoder itself made or vouched for
    are faults of the services, and so is everything that gRPC or a proxy says in place of the LLM service.
    """
    # The stubs type the entries as a class; they are pairs.
    metadata = cast("Iterable[tuple[str, object]]", error.trailing_metadata() or ())
    by_service = any(key == ERROR_METADATA_KEY for key, _ in metadata)
    if not by_service:
        return _transport_error(error)
    failure = error_from_rpc(error)
    match failure:
        case UnauthenticatedError():
            # The caller's token may be valid; the LLM service refused the encoder's.
            _log.error("the LLM service does not accept this encoder's token")
            return IncompatibleServicesError("the LLM service does not accept this encoder; its operator can help")
        case InvalidTokensError():
            _log.error("the LLM service refused the tokens of this encoder: %s", failure)
            return InternalError(f"the LLM service refused the vision tokens that the encoder sent: {failure}")
        case UnknownFieldError():
            # The encoder knows every field of the request; otherwise it would have refused the request itself.
            _log.error("the LLM service is of another release than this encoder: %s", failure)
            return IncompatibleServicesError(f"the LLM service is of another release than the encoder: {failure}")
        case DeadlineError():
            # gRPC enforces the caller's own deadline; the service's deadline is for an upload that has stopped.
            _log.warning("the LLM service waited too long for the tokens of this encoder: %s", failure)
            return OverloadedError("the encoder is too busy: the LLM service stopped waiting for the vision tokens")
        case CancelledError():
            return UnavailableError("the LLM service gave the call up")
        case _:
            return failure


def _transport_error(error: grpc.RpcError) -> VisionSplitError:
    """The error for a status that was made by gRPC or a proxy instead of the LLM service."""
    # The text contains addresses that do not help a caller, but it names what is wrong with a certificate.
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            _log.warning("the LLM service cannot be reached: %s", error.details())
            return UnavailableError("the LLM service cannot be reached, or the connection to it was lost")
        case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error_from_rpc(error)
        case grpc.StatusCode.UNIMPLEMENTED:
            _log.error("what answers at the LLM service's address is not an LLM service: %s", error.details())
            return IncompatibleServicesError("what answers at the LLM service's address is not an LLM service")
        case code:
            _log.error("a call to the LLM service failed with %s: %s", code.name, error.details())
            return InternalError(
                f"the call to the LLM service failed with {code.name}; the encoder's log has the details"
            )
