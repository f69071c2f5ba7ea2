"""A web server for tests that sends exactly the bytes it is told to, valid HTTP or not."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = bytes | Callable[[socket.socket], None]


def response(body: bytes = b"", *, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """A response whose Content-Length is that of the body unless another is given."""
    fields = {"Content_Length": str(len(body) if length is None else length), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


@dataclass
class Web:
    """Answers GET /NAME with `answers[NAME]`, then closes the connection."""

    answers: dict[str, Answer]
    url: str = ""
    requests: list[bytes] = field(default_factory=list)  # heads, in order


@contextmanager
def running_web(answers: dict[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    listener = socket.create_server(("127.0.0.1", 0))
    web = Web(answers, f"http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}")

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # a client that has left
            head = b""
            while b"\r\n\r\n" not in head and (some := connection.recv(65536)):
                head += some
                if not head.startswith(b"GET "):  # TLS, for instance
                    return
            web.requests.append(head)
            sent = web.answers[head.split(b" ")[1].decode().lstrip("/")]
            if callable(sent):
                sent(connection)
            else:
                connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # until the client closes: closing first could drop what was sent
                pass

    def accept(accepted: socket.socket) -> None:
        with accepted, suppress(OSError):  # a client that does not trust us
            answer(tls.wrap_socket(accepted, server_side=True) if tls else accepted)

    def serve() -> None:
        with suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=accept, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield web
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
