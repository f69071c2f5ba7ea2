"""HTTP/2 as far as an attacker needs it: calls that stop in the middle, at any byte."""

import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 8
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    """A header field as HPACK writes it without an index and without Huffman codes; both parts under 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call_headers(stream: int, path: str) -> bytes:
    """The frame that begins a gRPC call."""
    fields = {":method": "POST", ":scheme": "https", ":path": path, ":authority": "127.0.0.1"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    return frame(HEADERS, END_HEADERS, stream, b"".join(_field(*field) for field in fields.items()))


def connect(address: str, authority: Path, *, tls: bool = True) -> socket.socket:
    """A connection from another address than that of honest callers, with its first frames sent.

    Args:
        tls: False stops before TLS begins.
    """
    host, _, port = address.partition(":")
    plain = socket.create_connection((host, int(port)), timeout=10, source_address=("127.0.0.2", 0))
    if not tls:
        return plain
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    try:
        connected = context.wrap_socket(plain, server_hostname=host)
    except OSError:
        plain.close()
        raise
    connected.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    return connected


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int

    @property
    def ends(self) -> bool:
        """Whether it is the last one of its stream."""
        return self.kind == RST_STREAM or bool(self.flags & END_STREAM)


def frames(connected: socket.socket, *, until: tuple[int, ...] = ()) -> list[Frame]:
    """What comes.

    Ends with a frame of the kinds in `until`, when the other end closes, or when it is silent for the socket's timeout.
    """
    found: list[Frame] = []
    received = b""
    with suppress(OSError):  # silent or reset
        while not any(one.kind in until for one in found) and (some := connected.recv(1 << 16)):
            received += some
            while len(received) >= 9 and len(received) >= (end := 9 + int.from_bytes(received[:3], "big")):
                found.append(Frame(received[3], received[4], int.from_bytes(received[5:9], "big")))
                received = received[end:]
    return found
