"""Credentials that are refused at the start, files that are read again, and secrets that never show."""

import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from visionsplit.security.certificates import load_pair
from visionsplit.security.client import ClientSecurity, is_local
from visionsplit.security.reloaded_files import CredentialsError, ReloadingFiles
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tls import ClientTls, ServerTls
from visionsplit.security.tokens import AUTHORIZATION_KEY, AcceptedTokens, BearerToken, TokenHolder, read_tokens
from visionsplit.serving.guard import ServerSecurityStack
from visionsplit.serving.process import raise_open_files_limit

from tests.certificates import Authority, Pair, pem_of_key

TOKEN = "a-token-that-is-long-enough"
OTHER = "another-token-that-is-long-enough"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def refusal(pair: Pair) -> str:
    with pytest.raises(CredentialsError) as caught:
        load_pair(pair.certificate, pair.key)
    assert "PRIVATE KEY" not in str(caught.value)
    return str(caught.value)


def test_a_sound_pair_is_taken_and_hides_its_key(authority):
    pair = load_pair(*vars(authority.issue("server")).values())
    assert b"CERTIFICATE" in pair.certificate
    assert "PRIVATE" not in repr(pair)


def test_certificates_that_cannot_serve_say_why(authority, tmp_path):
    good, other = authority.issue("good"), authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing\n")
    locked = tmp_path / "locked.key"
    locked.write_bytes(pem_of_key(ec.generate_private_key(ec.SECP256R1()), b"password"))
    modern = authority.issue("modern", key=ed25519.Ed25519PrivateKey.generate())
    assert f"the key {other.key} does not belong to" in refusal(Pair(good.certificate, other.key))
    assert "cannot be read: No such file" in refusal(Pair(tmp_path / "missing.pem", good.key))
    assert "cannot be read: No such file" in refusal(Pair(good.certificate, tmp_path / "missing.key"))
    assert "holds no certificate" in refusal(Pair(empty, good.key))
    assert "holds no private key" in refusal(Pair(good.certificate, empty))
    assert "is encrypted" in refusal(Pair(good.certificate, locked))
    assert "RSA and ECDSA are accepted" in refusal(modern)
    assert "expired on" in refusal(authority.issue("old", days=-1))


def test_a_certificate_that_ends_soon_is_logged(authority, caplog):
    pair = authority.issue("soon", days=3)
    load_pair(pair.certificate, pair.key)
    assert "expires on" in caplog.text


def test_security_is_checked_at_the_start(authority, tmp_path):
    good = authority.issue("good")
    empty = tmp_path / "empty"
    empty.write_text("# no token yet\n")
    wrong = [
        ServerSecurity(ServerTls(good.certificate, tmp_path / "missing")),
        ServerSecurity(ServerTls(good.certificate, good.key, client_ca=empty)),
        ServerSecurity(token_files=(empty,)),
        ServerSecurity(token_files=(tmp_path / "missing",)),
    ]
    for security in wrong:
        with pytest.raises(CredentialsError, match=r"missing|empty"):
            ServerSecurityStack(security)
    with pytest.raises(CredentialsError, match="go together"):
        ClientTls(certificate=good.certificate)


def test_a_change_that_cannot_be_used_leaves_what_was_before(tmp_path, caplog):
    path = tmp_path / "number"
    path.write_text("1")

    def load():
        try:
            return int(path.read_text())
        except (OSError, ValueError):
            raise CredentialsError(f"{path} holds no number") from None

    files = ReloadingFiles([path], load)
    path.write_text("no number")
    assert [files.get(), files.get()] == [1, 1]
    path.unlink()
    assert files.get() == 1
    path.write_text("222")
    assert files.get() == 222
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


def bearer(token, key=AUTHORIZATION_KEY, scheme="Bearer"):
    return (key, f"{scheme} {token}")


# Serves with TLS, prints its port, and ends with its standard input.
SERVER = """
import asyncio, sys
from pathlib import Path
import grpc.aio
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tls import ServerTls
from visionsplit.serving.guard import ServerSecurityStack
from visionsplit.serving.process import raise_open_files_limit

async def main():
    raise_open_files_limit()
    server = grpc.aio.server(options=[("grpc.server_handshake_timeout_ms", 1500)])
    guard = ServerSecurityStack(ServerSecurity(ServerTls(Path(sys.argv[1]), Path(sys.argv[2]))))
    print(guard.bind(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)

asyncio.run(main())
"""


def test_a_thousand_handshakes_that_never_end_do_not_end_the_server(authority):
    pair = authority.issue("server")
    raise_open_files_limit()
    with (
        subprocess.Popen(
            [sys.executable, "-c", SERVER, str(pair.certificate), str(pair.key)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server,
        ExitStack() as connections,
    ):
        port = int(server.stdout.readline())
        for _ in range(1100):
            connections.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        time.sleep(3)  # until the server has given them up
        server.stdin.close()
        assert server.wait(timeout=30) == 0


def test_tokens_are_accepted_by_the_file_as_it_is(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{TOKEN}\n\n  {OTHER}  \n")
    tokens = AcceptedTokens([path])
    for metadata in ([bearer(TOKEN)], [bearer(OTHER, scheme="bearer")], [("x", "y"), bearer(OTHER)]):
        assert tokens.holder(metadata) is not None
    for metadata in (
        *([], [bearer(TOKEN[:-1])], [bearer(TOKEN + "x")], [bearer("")], [bearer("# ours")]),
        *([bearer(TOKEN, scheme="Basic")], [(AUTHORIZATION_KEY, TOKEN)], [(AUTHORIZATION_KEY, b"\xff")]),
        *([bearer(TOKEN), bearer(OTHER)], [bearer(TOKEN, key="token")], [bearer("\udcff")]),
    ):
        assert tokens.holder(metadata) is None
    path.write_text(f"{OTHER}\n")
    assert tokens.holder([bearer(OTHER)]) is not None
    assert tokens.holder([bearer(TOKEN)]) is None
    path.write_text("# nobody\n")
    assert tokens.holder([bearer(OTHER)]) is None


def test_a_token_may_have_a_name_and_be_a_relays(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"app {TOKEN}\napp {OTHER}\n{TOKEN}-3\nencoder {TOKEN}-4 relay\n{TOKEN}-5 relay\n")
    tokens = AcceptedTokens([path])
    first, second, third, fourth, fifth = (
        tokens.holder([bearer(token)]) for token in (TOKEN, OTHER, *(f"{TOKEN}-{number}" for number in (3, 4, 5)))
    )
    assert first == second == TokenHolder("app", relay=False)  # an old token and its successor
    assert fourth == TokenHolder("encoder", relay=True)
    assert (third.relay, fifth.relay) == (False, True)
    assert third.name != fifth.name
    for holder in (third, fifth):
        assert TOKEN not in repr(holder)
        assert len(holder.name) == 12
    assert BearerToken(file=path).sender().metadata() == (bearer(TOKEN),)
    assert TOKEN not in repr(read_tokens(path))
    path.write_text(f"app {TOKEN}\n{OTHER}\n")  # where none is marked, all are encoders'
    assert all(tokens.holder([bearer(token)]).relay for token in (TOKEN, OTHER))


@pytest.mark.parametrize(
    "text",
    [
        *("short", "two words in a line", "ümläute-sind-keine-token", "x" * 2000, "relay", "app relay"),
        *(f"{OTHER} {OTHER}", f"a-name-too-long-for-one {OTHER}", f"app {OTHER} relays", f"{OTHER} app", f"ä {OTHER}"),
    ],
)
def test_what_is_no_token_is_named_by_its_line_only(tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n{text}\n")
    for read in (lambda: AcceptedTokens([path]), BearerToken(file=path).sender):
        with pytest.raises(CredentialsError, match="line 2 of") as caught:
            read()
        assert text not in str(caught.value)
        assert OTHER not in str(caught.value)


def test_a_client_sends_the_first_token_of_its_file_as_it_is(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n{OTHER}\n")
    sender = BearerToken(file=str(path)).sender()
    assert sender.metadata() == (bearer(TOKEN),)
    path.write_text(f"{OTHER}\n")
    assert sender.metadata() == (bearer(OTHER),)


def test_tokens_come_from_one_place_and_do_not_show(monkeypatch):
    monkeypatch.setitem(os.environ, "SOME_TOKEN", TOKEN)
    for token in (BearerToken(environment="SOME_TOKEN"), BearerToken(value=TOKEN)):
        assert token.sender().metadata() == (bearer(TOKEN),)
        for shown in (repr(token), repr(ClientSecurity(token=token)), repr(token.sender()), repr(vars(token.sender()))):
            assert TOKEN not in shown
    with pytest.raises(CredentialsError, match="UNSET_TOKEN is not set"):
        BearerToken(environment="UNSET_TOKEN").sender()
    for wrong in ({}, {"value": TOKEN, "environment": "X"}):
        with pytest.raises(CredentialsError, match="exactly one of"):
            BearerToken(**wrong)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        *[(address, True) for address in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/x")],
        *[("dns:localhost:1", True), ("dns:///127.0.0.1:1", True)],
        *[(a, False) for a in ("10.0.0.1:1", "0.0.0.0:1", "[::]:1", "host:1", "localhost.evil:1", "127.evil:1")],
    ],
)
def test_what_stays_on_this_machine(address, local):
    assert is_local(address) is local
    security = ClientSecurity(token=BearerToken(value=TOKEN))
    if local or address in ("0.0.0.0:1", "[::]:1"):  # by which a client reaches its own machine
        security.check([address])
    else:
        with pytest.raises(CredentialsError, match="not encrypted"):
            security.check([address])
        ClientSecurity(token=security.token, allow_unencrypted_token=True).check([address])
        ClientSecurity(ClientTls(), security.token).check([address])


def test_several_token_files_are_accepted_together(tmp_path):
    applications, encoders = tmp_path / "applications", tmp_path / "encoders"
    applications.write_text(f"alice {'a' * 16}\n")
    encoders.write_text(f"encoder {'b' * 16} relay\n")
    tokens = AcceptedTokens([applications, encoders])

    def holder(token: str) -> TokenHolder | None:
        return tokens.holder([(AUTHORIZATION_KEY, f"Bearer {token}")])

    assert holder("a" * 16) == TokenHolder("alice", relay=False)
    assert holder("b" * 16) == TokenHolder("encoder", relay=True)
    applications.write_text(f"bob {'c' * 17}\n")
    assert holder("a" * 16) is None
    assert holder("c" * 17) == TokenHolder("bob", relay=False)
    assert holder("b" * 16) == TokenHolder("encoder", relay=True)
