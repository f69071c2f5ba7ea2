"""Calls with metadata that gRPC's own client refuses to send."""

import asyncio
import struct

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, StreamReset

_AS_GIVEN = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
_SECONDS = 30


async def raw_call(address: str, method: str, message: bytes, metadata: dict[bytes, bytes]) -> bytes:
    """Send one message, which may be as long as fits HTTP/2's first window, and return all bytes of the answer."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    http = H2Connection(_AS_GIVEN)
    http.initiate_connection()
    named = {b":method": b"POST", b":scheme": b"http", b":path": method.encode(), b":authority": address.encode()}
    named |= {b"te": b"trailers", b"content-type": b"application/grpc"}
    http.send_headers(1, [*named.items(), *metadata.items()])
    http.send_data(1, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
    answer = b""
    try:
        async with asyncio.timeout(_SECONDS):
            while True:
                writer.write(http.data_to_send())
                for event in http.receive_data(await reader.read(65536)):
                    if isinstance(event, StreamEnded | StreamReset):
                        return answer
                    if isinstance(event, DataReceived):
                        answer += event.data or b""
    finally:
        writer.close()
