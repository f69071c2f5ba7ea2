"""An HTTP proxy for tests: it refuses, forwards or sends garbage, and records the requests."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

VARIABLES = (
    *("grpc_proxy", "https_proxy", "http_proxy", "all_proxy", "no_proxy", "no_grpc_proxy"),
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"),
)


@dataclass
class Proxy:
    """Answers every request with `answer`, whatever it asks for."""

    address: str
    answer: bytes = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    drip_seconds: float = 0  # how long a byte follows the answer now and then
    requests: list[str] = field(default_factory=list)  # first lines

    @property
    def url(self) -> str:
        """With a password, which no message may show."""
        return f"http://someone:secret-word@{self.address}"

    def environment(self, **others: str) -> dict[str, str]:
        return dict.fromkeys(("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY"), self.url) | others


@contextmanager
def running_proxy() -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(f"127.0.0.1:{listener.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (some := connection.recv(4096)):
                    request += some
                proxy.requests.append(request.split(b"\r\n")[0].decode("latin-1"))
                connection.sendall(proxy.answer)
                end = time.monotonic() + proxy.drip_seconds
                with suppress(OSError):  # the client has had enough
                    while time.monotonic() < end:
                        connection.sendall(b"x")
                        time.sleep(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
