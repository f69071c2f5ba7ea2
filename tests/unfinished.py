"""Connections whose requests never arrive completely, and others that gRPC's own clients do not make."""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, StreamReset, TrailersReceived

_FRAME_BYTES = 16384
_PATIENCE_SECONDS = 0.3  # without a larger window, after which no more of a message is sent

Header = tuple[str, str]


def prefix(num_bytes: int, *, compressed: bool = False) -> bytes:
    """What stands before a message of this size."""
    return struct.pack(">BI", compressed, num_bytes)


class RawConnection:
    """HTTP/2 without a gRPC client's rules. Used as a context manager."""

    def __init__(self, address: str, *, source: str | None = None) -> None:
        """`source` is the address to connect from."""
        self._address = address
        self._source = None if source is None else (source, 0)
        self._http = H2Connection(H2Configuration(header_encoding="utf-8"))
        self._status: dict[int, str] = {}  # grpc-status by call
        self._closed = asyncio.Event()

    async def __aenter__(self) -> "RawConnection":
        host, _, port = self._address.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port), local_addr=self._source)
        self._http.initiate_connection()
        self._flush()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()

    def open(self, method: str, *, headers: Sequence[Header] = ()) -> int:
        """Begin a call; its number."""
        number = self._http.get_next_available_stream_id()
        named = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "x"}
        named |= {"te": "trailers", "content-type": "application/grpc"}
        self._http.send_headers(number, [*named.items(), *headers])
        self._flush()
        return number

    def reset(self, number: int) -> None:
        self._http.reset_stream(number)
        self._flush()

    async def send(self, number: int, data: bytes, *, end: bool = False) -> int:
        """Send as much as the service lets in, and then perhaps end the call's sending side; the number of bytes."""
        sent, last = 0, asyncio.get_running_loop().time()
        while sent < len(data) and number not in self._status:
            room = min(self._http.local_flow_control_window(number), _FRAME_BYTES, len(data) - sent)
            if room > 0:
                self._http.send_data(number, data[sent : sent + room])
                self._flush()
                await self._writer.drain()
                sent, last = sent + room, asyncio.get_running_loop().time()
            elif asyncio.get_running_loop().time() - last > _PATIENCE_SECONDS:
                break
            await asyncio.sleep(0 if room > 0 else 0.01)
        if end and sent == len(data):
            self._http.end_stream(number)
            self._flush()
        return sent

    async def status(self, number: int, *, seconds: float = 20) -> str:
        """The grpc-status with which a call ended."""
        async with asyncio.timeout(seconds):
            while True:
                if number in self._status:
                    return self._status[number]
                await asyncio.sleep(0.02)

    async def closed(self, *, seconds: float = 20) -> None:
        """Return when the service has ended the connection."""
        async with asyncio.timeout(seconds):
            await self._closed.wait()

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())

    async def _read(self) -> None:
        while data := await self._reader.read(65536):
            for event in self._http.receive_data(data):
                self._note(event)
            self._flush()
        self._closed.set()

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            headers: Mapping[Any, Any] = dict(event.headers or ())  # str, by the connection's header_encoding
            status = headers.get("grpc-status")
            if status is not None and event.stream_id is not None:
                self._status[event.stream_id] = str(status)
        elif isinstance(event, StreamReset) and event.stream_id is not None:
            self._status.setdefault(event.stream_id, f"reset {event.error_code}")
