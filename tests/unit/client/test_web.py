"""Images from URLs: any response of a server gives either the image's bytes or an error of the client."""

import gzip
import socket
import ssl
import time
import zlib

import pytest
from visionsplit.errors import InvalidImageError
from visionsplit.network.web_connections import is_public
from visionsplit_client import ImageFetchError, Limits, Timeouts, read_image

from tests.certificates import Authority
from tests.proxies import VARIABLES, running_proxy
from tests.web import response, running_web

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4
LIMITS = Limits(max_image_bytes=5000)
RAW_DEFLATE = zlib.compress(IMAGE, wbits=-15)
GZIP = {"Content_Encoding": "gzip"}


def drip(head: bytes):
    """Send a byte now and then, so that no single wait is long."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(300):
            connection.sendall(b"x")
            time.sleep(0.05)

    return send


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(status=status, Location=location)


GOOD = {
    "plain": response(IMAGE),
    "no-length": b"HTTP/1.0 200 OK\r\n\r\n" + IMAGE,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE),
    "my%20photo%23.png": response(IMAGE),
    "%D1%84%D0%BE%D1%82%D0%BE.png?size=%C3%A4": response(IMAGE),
    "gzip": response(gzip.compress(IMAGE), **GZIP),
    "gzip-in-parts": response(gzip.compress(IMAGE[:500]) + gzip.compress(IMAGE[500:]) + b"\0" * 9, **GZIP),
    "deflate": response(zlib.compress(IMAGE), Content_Encoding="deflate"),
    "bare-deflate": response(RAW_DEFLATE, Content_Encoding="Deflate"),
    "identity": response(IMAGE, Content_Encoding="identity"),
    "named-as-nothing": response(IMAGE, Content_Encoding="none, identity"),
    "as-html": response(IMAGE, Content_Type="text/html; charset=utf-8"),  # servers without a table of types
    "moved": redirect("/plain", "301 Moved Permanently"),
    "for-good": redirect("plain", "308 Permanent Redirect"),
    "to-a-space": redirect("/my photo%23.png"),
    "to-utf-8": redirect("/фото.png?size=ä"),
}
BAD = {
    "missing": (response(b"<html>no</html>", status="404 Not Found"), "HTTP 404 Not Found"),
    "broken": (response(status="500 Oops"), "HTTP 500 Oops"),
    "no-content": (b"HTTP/1.1 204 No Content\r\n\r\n", "HTTP 204"),
    "partial": (response(IMAGE[:9], status="206 Partial Content"), "HTTP 206"),
    "not-modified": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP 304"),
    "no-location": (response(status="302 Found"), "HTTP 302 without a Location"),
    "in-circles": (redirect("/in-circles"), "more than 10 redirects"),
    "to-a-file": (redirect("file:///etc/hostname"), "other than http and https"),
    "to-ftp": (redirect("ftp://127.0.0.1/x"), "other than http and https"),
    "to-a-bad-port": (redirect("http://127.0.0.1:99999/"), "host or port is not valid"),
    "to-port-0": (redirect("http://127.0.0.1:0/"), "host or port is not valid"),
    "to-half-an-address": (redirect("//[::/"), "Invalid IPv6 URL"),
    "to-bytes": (b"HTTP/1.1 302 F\r\nLocation: http://\xe9:9x/\r\n\r\n", "host or port is not valid"),
    "two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\nhello", "Content-Length"),
    "html": (response(b"\n<!doctype html><p>Log in", Content_Type="text/html"), "sent text/html, not an image"),
    "json": (response(b'{"error": 1}', Content_Type="application/json"), "sent application/json, not an image"),
    "plain-text": (response(b"Rate limit exceeded", Content_Type="text/plain"), "sent text/plain, not an image"),
    "empty": (response(), "sent no bytes"),
    "silent": (b"", "closed connection without response"),
    "garbage": (b"garbage garbage\r\n\r\n", "not valid HTTP: garbage garbage"),
    "binary": (bytes(range(256)) * 9, "not valid HTTP"),
    "bad-status": (b"HTTP/1.1 two hundred\r\n\r\n", "not valid HTTP"),
    "cut-off": (response(IMAGE, length=2 * len(IMAGE)), "ended before the answer was complete"),
    "cut-chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\nxyz",
        "ended before the answer was complete",
    ),
    "bad-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxyz", "not valid HTTP"),
    "long-header": (response(IMAGE, X="y" * 70000), "not valid HTTP"),
    "many-headers": (response(IMAGE, **{f"X{i}": "y" for i in range(150)}), "not valid HTTP"),
    "long-reason": (response(status="500 " + "x" * 9000), "HTTP 500 x+…"),
    "brotli": (response(IMAGE, Content_Encoding="br"), "Content-Encoding 'br'"),
    "twice": (response(gzip.compress(IMAGE), Content_Encoding="gzip, gzip"), "Content-Encoding 'gzip, gzip'"),
    "no-gzip": (response(IMAGE, **GZIP), "gzip encoding is damaged"),
    "cut-gzip": (response(gzip.compress(IMAGE)[:-20], **GZIP), "gzip encoding is cut off"),
    "drip-body": (drip(response(length=4000)), "not complete after 1 seconds"),
    "drip-headers": (drip(b"HTTP/1.1 200 OK\r\nX: "), "not complete after 1 seconds"),
    "drip-without-length": (drip(b"HTTP/1.1 200 OK\r\n\r\n"), "not complete after 1 seconds"),
}
LARGE = {
    "large": response(b"x" * 6000),
    "large-without-length": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 6000,
    "endless-by-its-header": response(length=10**12),
    "bomb": response(gzip.compress(bytes(10**8)), **GZIP),
    "deflate-bomb": response(zlib.compress(bytes(10**8)), Content_Encoding="deflate"),
}


@pytest.fixture(scope="module")
def web():
    with running_web(GOOD | {name: answer for name, (answer, _) in BAD.items()} | LARGE) as web:
        yield web


def read(url: str, seconds: float = 20) -> bytes:
    return read_image(url, limits=LIMITS, timeouts=Timeouts(fetch=seconds))


@pytest.mark.parametrize("name", GOOD)
def test_images(web, name):
    assert read(f"{web.url}/{name}") == IMAGE


def test_urls_as_people_write_them(web):
    assert read(f" {web.url}/my photo%23.png#top\n") == IMAGE
    assert read(f"{web.url.upper()}/фото.png?size=ä") == IMAGE


def test_what_a_server_is_told(web):
    read(web.url.replace("//", "//me:p%40ss@") + "/plain", seconds=1e12)
    head = web.requests[-1].lower()
    assert b"user-agent: visionsplit/" in head
    assert b"accept-encoding: gzip, deflate\r\n" in head
    assert b"authorization: basic bwu6cebzcw==" in head


@pytest.mark.parametrize("name", BAD)
def test_failures(web, name):
    started = time.monotonic()
    with pytest.raises(ImageFetchError, match=BAD[name][1]) as raised:
        read(f"{web.url}/{name}", seconds=1 if name.startswith("drip") else 20)
    assert f"cannot fetch {web.url}/{name}: " in str(raised.value)
    assert len(str(raised.value)) < 400
    assert time.monotonic() - started < 12  # a drip lasts for 15 seconds


@pytest.mark.parametrize("name", LARGE)
def test_too_large(web, name):
    with pytest.raises(InvalidImageError, match="has more than 5000 bytes"):
        read(f"{web.url}/{name}")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:port/x", "host or port is not valid"),
        ("http://127.0.0.1:99999/x", "host or port is not valid"),
        ("http://me:secret-word@127.0.0.1:port/x", "cannot fetch http://127.0.0.1:port/x: "),
        ("http:///x.png", "the URL has no host"),
        ("http://two words/x", "host or port is not valid"),
        ("http://[::1/x", "host or port is not valid"),
        ("http://a..b/x", "host or port is not valid"),
        ("http://" + "a" * 64 + ".invalid/", "cannot"),
        ("http://bücher.invalid/x", "cannot be resolved"),
        ("http://127.0.0.1:1/x", "Connection refused"),
        ("http://[::1]:1/x", "cannot fetch"),
        ("http://me:secret-word@127.0.0.1:1/x", "cannot fetch http://127.0.0.1:1/x: Connection refused"),
        ("http://中:secret-word@127.0.0.1:1/x", "Connection refused"),
        ("https://127.0.0.1:1/\udcff\x00\x1b[2J", "Connection refused"),
    ],
)
def test_urls_that_lead_nowhere(url, says):
    with pytest.raises(ImageFetchError, match=r"cannot fetch http") as raised:
        read(url)
    assert says in str(raised.value)
    assert "secret-word" not in str(raised.value)


def test_a_plain_server_behind_https(web):
    with pytest.raises(ImageFetchError, match=r"SSL|reset"):
        read(web.url.replace("http:", "https:") + "/plain")


def test_https(tmp_path, monkeypatch):
    service = Authority(tmp_path).issue("service")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(service.certificate, service.key)
    answers = {"plain": response(IMAGE), "drip": drip(response(length=4000))}
    with running_web(answers, tls) as web:
        with pytest.raises(ImageFetchError, match="certificate verify failed"):
            read(f"{web.url}/plain")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        assert read(f"{web.url}/plain") == IMAGE
        with pytest.raises(ImageFetchError, match="not complete after 1 seconds"):
            read(f"{web.url}/drip", seconds=1)


@pytest.fixture
def proxy(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with running_proxy() as proxy:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


def test_this_machine_is_never_asked_through_a_proxy(web, proxy):
    assert read(f"{web.url}/plain") == IMAGE
    assert read(f"{web.url.replace('127.0.0.1', 'localhost')}/plain") == IMAGE
    assert proxy.requests == []


def test_other_hosts_are_asked_through_the_proxy_and_redirects_decide_anew(web, proxy):
    proxy.answer = response(IMAGE)
    assert read("http://images.invalid/a b.png") == IMAGE
    assert proxy.requests == ["GET http://images.invalid/a%20b.png HTTP/1.1"]
    proxy.answer = redirect(f"{web.url}/plain")
    assert read("http://images.invalid/c.png") == IMAGE
    assert len(proxy.requests) == 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "407 Proxy Authentication"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502 Bad Gateway"),
        (b"garbage\r\n\r\n", "garbage"),
        (b"", "closed connection"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_errors_behind_a_proxy_say_so(proxy, scheme, answer, says):
    proxy.answer = answer
    with pytest.raises(ImageFetchError, match=says) as raised:
        read(f"{scheme}://images.invalid/a.png")
    hint = f"through the proxy {proxy.address}, which {scheme}_proxy names; add images.invalid to no_proxy"
    assert hint in str(raised.value)
    assert "secret-word" not in str(raised.value)


def test_a_kind_of_proxy_that_is_not_supported_is_named(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", "socks5://me:secret-word@127.0.0.1:1080")
    with pytest.raises(ImageFetchError, match=r"socks5.*through the proxy 127\.0\.0\.1:1080") as raised:
        read("http://images.invalid/a.png")
    assert "secret-word" not in str(raised.value)


def test_the_time_limit_holds_for_a_proxy_that_drips_its_answer(proxy, monkeypatch):
    """To an https URL, for which the proxy is asked for a tunnel first."""
    proxy.answer, proxy.drip_seconds = b"HTTP/1.1 200 OK\r\nX: ", 8
    monkeypatch.setenv("https_proxy", proxy.url)
    started = time.monotonic()
    with pytest.raises(ImageFetchError, match="not complete after 1 seconds"):
        read("https://images.invalid/a.png", seconds=1)
    assert time.monotonic() - started < 6


PUBLIC_ONLY = Limits(max_image_bytes=5000, allow_files=False, allow_private_addresses=False)


def read_for_strangers(location: str) -> bytes:
    return read_image(location, limits=PUBLIC_ONLY, timeouts=Timeouts(fetch=20))


@pytest.fixture
def names(monkeypatch):
    """Host names with addresses that change: each look-up takes the next, and keeps the last."""
    names: dict[str, list[list[str]]] = {}
    look_up = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **kwargs):
        addresses = names.get(host)
        if addresses is None:
            return look_up(host, port, *args, **kwargs)
        now = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [found for address in now for found in look_up(address, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return names


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
        "255.255.255.255",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
        "intranet.example",
    ],
)
def test_addresses_that_are_not_public_are_refused_where_they_are_not_allowed(names, host):
    names["intranet.example"] = [["10.0.0.7", "::1"]]
    started = time.monotonic()
    with pytest.raises(ImageFetchError, match="leads to an address that is not public"):
        read_for_strangers(f"http://{host}:1/a.png")
    assert time.monotonic() - started < 5  # nothing was tried


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.fixture
def public(web, names, monkeypatch):
    """The test's web server as a public host."""
    monkeypatch.setattr("visionsplit.network.web_connections.is_public", lambda address: address == "127.0.0.1")
    names["images.example"] = [["127.0.0.1"]]
    return web.url.replace("127.0.0.1", "images.example")


def test_redirects_to_private_addresses_are_refused(web, public, names):
    names["intranet.example"] = [["10.0.0.7"]]
    assert read_for_strangers(f"{public}/plain") == IMAGE
    web.answers["inside"] = redirect("http://intranet.example/secret")
    with pytest.raises(ImageFetchError, match="not public"):
        read_for_strangers(f"{public}/inside")


def test_a_name_is_looked_up_once_for_the_check_and_the_connection(public, names):
    names["images.example"] = [["127.0.0.1"], ["10.0.0.7"]]  # as a hostile name server answers
    assert read_for_strangers(f"{public}/plain") == IMAGE
    with pytest.raises(ImageFetchError, match="not public"):
        read_for_strangers(f"{public}/plain")


def test_only_the_public_addresses_of_a_name_are_tried(public, names):
    names["images.example"] = [["10.0.0.7", "127.0.0.1"]]
    assert read_for_strangers(f"{public}/plain") == IMAGE


def test_addresses_cannot_be_checked_behind_a_proxy(proxy):
    with pytest.raises(ImageFetchError, match="cannot be checked behind a proxy"):
        read_for_strangers("http://images.invalid/a.png")
    assert proxy.requests == []


def test_the_second_address_of_a_name_is_tried(public, names):
    names["images.example"] = [["127.0.0.2", "127.0.0.1"]]
    assert read(f"{public}/plain") == IMAGE


def test_the_time_limit_holds_for_all_addresses_of_a_name_together(names):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]  # fill the backlog, so that further connections stand still
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        names["slow.example"] = [["127.0.0.1"] * 20]
        started = time.monotonic()
        with pytest.raises(ImageFetchError, match="not complete after 1 seconds"):
            read(f"http://slow.example:{port}/", seconds=1)
        assert time.monotonic() - started < 5
        for one in waiting:
            one.close()


@pytest.mark.parametrize("location", ["/etc/hostname", "file:///etc/hostname", "a.png"])
def test_files_are_refused_where_they_are_not_allowed(location):
    with pytest.raises(ValueError, match="files are not allowed here"):
        read_for_strangers(location)
    with pytest.raises(ValueError, match="files are not allowed here"):
        read_image({"path": location}, limits=PUBLIC_ONLY, timeouts=Timeouts())
    assert read_for_strangers("data:;base64,iVBORw0KGgo=").startswith(b"\x89PNG")
