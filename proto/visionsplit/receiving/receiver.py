"""Receives the requests of every method within limits, and parses them after checks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message

from visionsplit.errors import InvalidRequestError, OverloadedError
from visionsplit.network.transport import KIB
from visionsplit.receiving.messages import has_bytes, parse
from visionsplit.receiving.prompts import MAX_PROMPT_BYTES
from visionsplit.receiving.unfinished_requests import MAX_UNFINISHED_BYTES, Receipts
from visionsplit.serving.call_log import log_call
from visionsplit.serving.caller import Callers
from visionsplit.serving.fairness import Shares, address_behind
from visionsplit.serving.interceptors import Context, Handler, HandlerInterceptor, behavior_of
from visionsplit.wire.request_id import request_id_of

_log = logging.getLogger(__name__)

# For methods whose requests contain only names and numbers, such as the health check: the largest request, and how long
# the first of a call may take to arrive. Clients send such a request together with the call's headers.
SMALL_REQUEST_BYTES = 64 * KIB
SMALL_REQUEST_SECONDS = 10.0
_HELD_REQUESTS = 16  # requests of the largest size that all running calls may hold together
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class ReceiveLimits:
    """Limits on the size and the duration of requests."""

    max_bytes: int  # of one request
    seconds: float = 120.0  # for a request to arrive completely; streams have time limits set by their services
    max_unfinished_bytes: int = MAX_UNFINISHED_BYTES  # of all incomplete requests together
    caller_share: float = 0.75  # share of the memory for requests that one caller may take


@dataclass(frozen=True)
class _Method:
    """How the requests of one method are received."""

    name: str
    request: type[Message]
    small: bool
    max_bytes: int
    seconds: float | None  # for the first message to arrive; later ones of a stream may pause


class Receiver:
    """Receives the requests of one server. Used from one event loop."""

    def __init__(self, limits: ReceiveLimits, callers: Callers) -> None:
        self._limits = limits
        self.callers = callers
        self.max_prompt_bytes = MAX_PROMPT_BYTES  # a service that knows its context length lowers the limit
        self.receipts = Receipts(max_unfinished_bytes=limits.max_unfinished_bytes)
        self._held = Shares(_HELD_REQUESTS * limits.max_bytes, limits.caller_share)
        self._watch: asyncio.Task[None] | None = None

    @property
    def interceptor(self) -> grpc.aio.ServerInterceptor:
        """The interceptor to install innermost: it passes parsed requests on to the method."""
        return _ReceiveInterceptor(self)

    def start(self) -> None:
        self._watch = asyncio.create_task(self.receipts.watch())

    async def close(self) -> None:
        """Stop watching. Has no effect before `start` or when called again."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def method(self, name: str, *, streaming: bool) -> _Method:
        """Look up a method by its path, such as `/grpc.health.v1.Health/Check`."""
        found = descriptor_pool.Default().FindMethodByName(name.strip("/").replace("/", "."))
        request = message_factory.GetMessageClass(found.input_type)
        small = not has_bytes(found.input_type)
        max_bytes = min(SMALL_REQUEST_BYTES, self._limits.max_bytes) if small else self._limits.max_bytes
        seconds = SMALL_REQUEST_SECONDS if small else self._limits.seconds
        # Only the service can judge how long a stream of large messages may pause.
        return _Method(found.name, request, small, max_bytes, seconds if small or not streaming else None)

    def parsed(self, method: _Method, data: bytes) -> Message:
        """Parse a request; see `parse`."""
        return parse(method.request, data, max_prompt_bytes=self.max_prompt_bytes)

    @contextmanager
    def held(self, caller: str, num_bytes: int) -> Iterator[None]:
        """Reserve memory for a request while its call runs.

        Raises:
            OverloadedError: the memory for requests is taken, or the caller's share of it.
        """
        if not self._held.fits(caller, num_bytes):
            raise OverloadedError(
                f"the requests of running calls have {self._held.taken} bytes, {self._held.held_by(caller)} of them "
                f"of this caller; {num_bytes} more are too many",
                _RETRY_SECONDS,
            )
        self._held.take(caller, num_bytes)
        try:
            yield
        finally:
            self._held.give_back(caller, num_bytes)


class _ReceiveInterceptor(HandlerInterceptor):
    """Replaces every method's handler by one that takes a stream of bytes.

    For a method with a single request, gRPC starts the handler only when the request has arrived completely. Until then
    it could neither be refused nor ended. For a stream, gRPC accepts only a small window until the handler reads.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._handlers: dict[str, Handler] = {}  # only of existing methods, so their number is bounded

    def replaced(self, handler: Handler, details: grpc.HandlerCallDetails) -> Handler:
        name = details.method
        if name not in self._handlers:
            self._handlers[name] = self._receiving(name, handler)
        return self._handlers[name]

    def _receiving(self, name: str, handler: Handler) -> Handler:
        """A handler that takes a stream of bytes and passes the method what it expects."""
        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        method = self._receiver.method(name, streaming=handler.request_streaming)
        _, behavior = behavior_of(handler)
        received = self._received(method, behavior, streaming=handler.request_streaming)
        return make(received, None, handler.response_serializer)

    def _received(self, method: _Method, behavior: Callable[..., Any], *, streaming: bool) -> Callable[..., Any]:
        receiver = self._receiver

        async def received(_: AsyncIterator[bytes], context: Context) -> object:
            caller = receiver.callers.of(context)
            # Charged to the address: a caller that invents names would otherwise be the last to lose requests.
            sender = address_behind(caller)
            requests = _Requests(receiver, _Messages(context), method, sender, str(context.peer()))
            if streaming:
                return await _respond(behavior(requests, context), context)
            data = await requests.next_bytes()
            if data is None:
                raise InvalidRequestError("the call ended before its request came")
            with receiver.held(caller, len(data)) if not method.small else nullcontext():
                try:
                    request = receiver.parsed(method, data)
                except InvalidRequestError:
                    # The method itself, which logs its calls, does not begin.
                    with log_call(_log, request_id_of(context), method.name):
                        raise
                del data  # the request has its own copy
                return await _respond(behavior(request, context), context)

        return received


async def _respond(behavior: Any, context: Context) -> object:  # noqa: ANN401 - what a servicer's method returns
    """Run a method to its end, sending its responses."""
    if not isasyncgen(behavior):
        return await behavior
    async with aclosing(behavior) as responses:
        async for response in responses:
            await context.write(response)
    return None


class _Messages:
    """The messages of a call, as bytes.

    gRPC's own iterator refers to the call, and its generator to the iterator. Unless it is read to its end, which no
    call with one request needs, this cycle keeps the call and its HTTP/2 stream until Python's collector runs, and
    the number of streams of a connection is limited.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        message: Any = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return bytes(message)


class _Requests:
    """The parsed requests of a call.

    A request that cannot be parsed does not end the iteration, so that the rest can be read and dropped. A request that
    did not arrive ends it, since gRPC is still reading it and allows no other read.
    """

    def __init__(
        self, receiver: Receiver, messages: AsyncIterator[bytes], method: _Method, caller: str, peer: str
    ) -> None:
        self._receiver = receiver
        self._messages = messages
        self._method = method
        self._caller = caller
        self._peer = peer
        self._seconds = method.seconds
        self._cut_off = False

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        data = await self.next_bytes()
        if data is None:
            raise StopAsyncIteration
        return self._receiver.parsed(self._method, data)

    async def next_bytes(self) -> bytes | None:
        """The next request's bytes; None at the end."""
        if self._cut_off:
            return None
        self._cut_off = True
        data = await self._receiver.receipts.receive(
            self._messages,
            caller=self._caller,
            peer=self._peer,
            max_bytes=self._method.max_bytes,
            small=self._method.small,
            seconds=self._seconds,
        )
        self._cut_off, self._seconds = data is None, None
        return data
