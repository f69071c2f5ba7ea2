"""Gets what is behind an http or https URL, within limits of time and size."""

import http.client
import zlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

import urllib3
from urllib3.exceptions import (
    HTTPError,
    InvalidChunkLength,
    LocationParseError,
    ProxySchemeUnknown,
)
from urllib3.util import Timeout, Url, parse_url

import visionsplit
from visionsplit.network.proxies import Proxy, web_proxy
from visionsplit.network.web_connections import Deadline, WebError

_READ_BYTES = 1 << 16
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST_REASON = 200  # characters; servers choose some of the words
_PORTS = {"http": 80, "https": 443}
_HEADERS = {
    "User-Agent": f"visionsplit/{visionsplit.__version__}",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}

# What servers also write in Content-Encoding; the bytes are those of the file.
_NO_ENCODINGS = frozenset({"", "identity", "none", "binary", "utf-8", "aws-chunked"})


class TooLargeError(WebError):
    """It has more bytes than are taken."""


@dataclass(frozen=True)
class Page:
    """What a server answered with status 200."""

    data: bytes
    content_type: str  # in lower case, without parameters; empty if the server did not say


def fetch(url: str, *, max_bytes: int, timeout: float | None, private_addresses: bool = True) -> Page:
    """Fetch a URL and undo its Content-Encoding. Redirects to http and https are followed.

    Args:
        url: spaces and letters outside ASCII are encoded, in the host's name by IDNA.
        max_bytes: limit of the data, before and after decoding.
        timeout: seconds for everything, however slowly the bytes arrive; None waits for ever. Only the look-up of a
            host's name is not cut off.
        private_addresses: whether the URL, or one that it redirects to, may lead to a host that has no public address.
            False also refuses URLs that are fetched through a proxy, because the proxy looks up the name itself.

    Raises:
        TooLargeError: there is more.
        WebError: any other failure.
    """
    with Deadline(timeout) as deadline:
        for _ in range(_MAX_REDIRECTS + 1):
            target = _parsed(url)
            proxy = web_proxy(str(target.scheme), str(target.host).strip("[]"), _port(target))
            try:
                if not private_addresses and proxy is not None:
                    raise WebError("it must lead to a public address, which cannot be checked behind a proxy")
                answer = _get_once(target, proxy, deadline, max_bytes, private_addresses)
            except (HTTPError, OSError, http.client.HTTPException, ValueError) as error:
                raise WebError(_with_hint(deadline.reason or _reason(error), target, proxy)) from error
            except WebError as error:
                raise type(error)(_with_hint(str(error), target, proxy)) from error
            if isinstance(answer, Page):
                return answer
            url = answer
    raise WebError(f"more than {_MAX_REDIRECTS} redirects")


def _parsed(url: str) -> Url:
    try:
        target = parse_url(url)
    except LocationParseError as error:
        raise WebError("its host or port is not valid") from error
    if target.scheme not in _PORTS:
        raise WebError("it leads to something other than http and https")
    if not target.host:
        raise WebError("the URL has no host")
    if target.port == 0:
        raise WebError("its host or port is not valid")
    return target


def _port(target: Url) -> int:
    return _PORTS[str(target.scheme)] if target.port is None else target.port


def _get_once(
    target: Url, proxy: Proxy | None, deadline: Deadline, max_bytes: int, private_addresses: bool
) -> Page | str:
    """One request: the page, or the URL to which it has moved."""
    if deadline.reason is not None:
        raise WebError(deadline.reason)
    headers = _HEADERS | ({"Authorization": _basic(target.auth)} if target.auth else {})
    with _manager(proxy) as manager:
        pool: Any = manager.connection_from_host(target.host, _port(target), target.scheme)
        pool.ConnectionCls = deadline.watched(pool.ConnectionCls, private_addresses=private_addresses)
        response = manager.urlopen(
            "GET",
            target._replace(auth=None, fragment=None).url,
            redirect=False,
            retries=False,
            headers=headers,
            timeout=Timeout(connect=deadline.remaining(), read=deadline.remaining()),
            preload_content=False,
        )
        try:
            if response.status in _REDIRECTS:
                return urljoin(target.url, _location(response))
            if response.status != http.HTTPStatus.OK:
                raise WebError(f"HTTP {response.status} {response.reason or ''}".rstrip())
            data = _body(response, max_bytes)
        finally:
            response.close()
    if deadline.reason is not None:  # a body without a length ends like a connection that is shut down
        raise WebError(deadline.reason)
    return Page(data, response.headers.get("Content-Type", "").partition(";")[0].strip().lower())


def _manager(proxy: Proxy | None) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager()
    auth = parse_url(proxy.url).auth
    return urllib3.ProxyManager(proxy.url, proxy_headers={"Proxy-Authorization": _basic(auth)} if auth else None)


def _basic(user_and_password: str) -> str:
    return f"Basic {b64encode(unquote(user_and_password).encode()).decode()}"


def _location(response: urllib3.BaseHTTPResponse) -> str:
    location = response.headers.get("Location")
    if not location:
        raise WebError(f"HTTP {response.status} without a Location")
    try:  # http.client reads headers as Latin-1, and servers that do not encode a name mean UTF-8
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def _body(response: urllib3.BaseHTTPResponse, max_bytes: int) -> bytes:
    if (response.length_remaining or 0) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes")
    chunks = response.stream(_READ_BYTES, decode_content=False)
    named = [name.strip().lower() for name in response.headers.get("Content-Encoding", "").split(",")]
    encodings = [name for name in named if name not in _NO_ENCODINGS]
    if len(encodings) == 1 and encodings[0] in ("gzip", "x-gzip", "deflate"):
        return _inflated(chunks, encodings[0], max_bytes)
    if encodings:
        raise WebError(f"the server sent Content-Encoding {', '.join(encodings)!r}, which was not asked for")
    data = bytearray()
    for chunk in chunks:
        _append(data, chunk, max_bytes)
    return bytes(data)


def _inflated(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> bytes:
    """Undo gzip or deflate without ever holding much more than `max_bytes`, whatever the bytes unpack to."""
    data = bytearray()
    unpacker: Any = None
    try:
        for chunk in chunks:
            while chunk:
                unpacker = unpacker or zlib.decompressobj(_window_bits(encoding, chunk))
                _append(data, unpacker.decompress(chunk, max_bytes + 1 - len(data)), max_bytes)
                chunk = unpacker.unconsumed_tail
                if unpacker.eof:  # gzip may have several parts; what follows else is padding
                    chunk = unpacker.unused_data if unpacker.unused_data.startswith(b"\x1f\x8b") else b""
                    unpacker = None if chunk else unpacker
    except zlib.error as error:
        raise WebError(f"its {encoding} encoding is damaged: {error}") from error
    if unpacker is not None and not unpacker.eof:
        raise WebError(f"its {encoding} encoding is cut off")
    return bytes(data)


def _window_bits(encoding: str, start: bytes) -> int:
    """What zlib calls the format. "deflate" means zlib's, and some servers send bare deflate by that name."""
    if encoding != "deflate":
        return zlib.MAX_WBITS | 16
    is_zlib = start[0] & 15 == 8 and (len(start) < 2 or int.from_bytes(start[:2], "big") % 31 == 0)
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS


def _append(data: bytearray, more: bytes, max_bytes: int) -> None:
    data += more
    if len(data) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes")


def _reason(error: BaseException) -> str:
    """The innermost error's words: those around it repeat the host and name objects of the library."""
    while not isinstance(error, http.client.IncompleteRead) and isinstance(
        inner := error.__cause__ or error.__context__, OSError | http.client.HTTPException | HTTPError
    ):
        error = inner
    if isinstance(error, LocationParseError):
        return "its host or port is not valid"
    if isinstance(error, ProxySchemeUnknown):
        return f"this kind of proxy is not supported: {error}"
    if isinstance(error, http.client.IncompleteRead) and not isinstance(error, InvalidChunkLength):
        return "the connection ended before the answer was complete"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"the answer is not valid HTTP: {str(error).strip() or type(error).__name__}"


def _with_hint(text: str, target: Url, proxy: Proxy | None) -> str:
    text = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"
    return text if proxy is None else f"{text} ({proxy.hint(str(target.host))})"
