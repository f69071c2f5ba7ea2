"""An HTTP/2 client for calls that gRPC's own client would not make: unfinished, unread, reset, or against the rules."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, Event, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

_READ_BYTES = 1 << 16
_WINDOW_BYTES = (1 << 31) - 1  # of the whole connection, where a test reads
# Header values go out as they are, those that the rules forbid too.
_AS_GIVEN = H2Configuration(
    client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
)


class Http2Client:
    """One connection. A task reads what the server sends; `reading` set to False leaves it in the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = H2Connection(_AS_GIVEN)
        self._moved = asyncio.Condition()  # windows, streams or the connection have changed
        self.ended: set[int] = set()  # streams that the server has ended or reset
        self.received: Counter[int] = Counter()  # bytes of each stream
        self.closed = False
        self.error: Exception | None = None  # that ended the reading
        self._task = asyncio.create_task(self._read())

    @classmethod
    @asynccontextmanager
    async def connected(
        cls, address: str, tls: ssl.SSLContext | None = None, *, window: int = _WINDOW_BYTES
    ) -> AsyncIterator["Http2Client"]:
        """`window` is how many bytes the server may send on each stream before it has to wait."""
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        client = cls(reader, writer)
        try:
            client._h2.initiate_connection()
            client._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
            client._h2.increment_flow_control_window(_WINDOW_BYTES - 65535)
            await client._flush()
            yield client
        finally:
            client._task.cancel()
            await asyncio.gather(client._task, return_exceptions=True)
            writer.transport.abort()

    async def begin(
        self, method: str, metadata: Sequence[tuple[str, str]] = (), *, end: bool = False, flush: bool = True
    ) -> int:
        """Send the headers of a call; its stream."""
        stream = self._h2.get_next_available_stream_id()
        head = (
            *((":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost")),
            *(("content-type", "application/grpc"), ("te", "trailers")),
        )
        self._h2.send_headers(stream, [*head, *metadata], end_stream=end)
        if flush:
            await self._flush()
        return stream

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Send bytes of a call as far as the server takes them; how many it took before it ended the call."""
        view, sent = memoryview(data), 0
        while sent < len(data) and not self.closed and stream not in self.ended:
            try:
                room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                if not room:
                    async with self._moved:
                        await self._moved.wait()
                    continue
                part = bytes(view[sent : sent + room])
                self._h2.send_data(stream, part, end_stream=end and sent + len(part) == len(data))
            except ProtocolError:  # the stream or the connection has ended meanwhile
                break
            sent += len(part)
            await self._flush()
        return sent

    def reset(self, stream: int) -> None:
        """Give a call up. Leaves with the next flush."""
        self._h2.reset_stream(stream, ErrorCodes.CANCEL)

    def ping(self) -> None:
        """Leaves with the next flush."""
        self._h2.ping(b"visionsp")

    def open_window(self, stream: int, size: int) -> None:
        """Let the server send this many further bytes. Leaves with the next flush."""
        self._h2.increment_flow_control_window(size, stream)

    async def flush(self) -> None:
        await self._flush()

    async def raw(self, data: bytes) -> None:
        """Bytes as they are, behind what has been sent.

        Raises:
            ConnectionError: the server has ended the connection, which asyncio only writes to its log.
        """
        if self._writer.is_closing():
            raise ConnectionResetError("the server has ended the connection")
        self._writer.write(data)
        await self._writer.drain()

    async def finished(self, stream: int) -> None:
        """Wait until the server has ended a call or the connection."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.closed or stream in self.ended)

    async def half_close(self) -> None:
        """End the connection's sending half only."""
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)
            await self._writer.drain()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for event in self._h2.receive_data(data):
                    self._note(event)
                await self._flush()
                async with self._moved:
                    self._moved.notify_all()
        except (OSError, ProtocolError) as error:
            self.error = error  # the connection is over
        finally:
            self.closed = True
            async with self._moved:
                self._moved.notify_all()

    def _note(self, event: Event) -> None:
        if isinstance(event, (StreamEnded, StreamReset)) and event.stream_id is not None:
            self.ended.add(event.stream_id)
        elif isinstance(event, DataReceived) and event.stream_id is not None:
            self.received[event.stream_id] += len(event.data or b"")
        elif isinstance(event, ConnectionTerminated):
            self.closed = True
