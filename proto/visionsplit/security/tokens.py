"""Bearer tokens: who may call a service. They live in files and never show in logs, errors or representations."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionsplit.security.files import CredentialsError, Watched, read_file

AUTHORIZATION_KEY = "authorization"  # metadata
TOKEN_VARIABLE = "VISIONSPLIT_TOKEN"

_SCHEME = "bearer"
_MIN_LENGTH = 16
_MAX_LENGTH = 1024  # gRPC takes 8 KiB of metadata in all
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
# Shorter than any token, so that no token can be taken for a name, which may be shown.
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{_MIN_LENGTH - 1}}}")
_RELAY = "relay"
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True)
class TokenLine:
    """A line of a token file: `[NAME] TOKEN [relay]`."""

    token: str = field(repr=False)
    name: str | None = None  # of whoever holds it; several tokens may have one name
    relay: bool = False  # its holder calls for others, and is believed when it says for whom


@dataclass(frozen=True)
class TokenHolder:
    """Who holds an accepted token, as it may be shown."""

    name: str  # that of the token file, else a digest of the token
    relay: bool  # is believed when it says on whose behalf it calls


def read_tokens(path: Path) -> tuple[TokenLine, ...]:
    """The tokens of a file: one a line, empty lines and those that begin with # left out.

    Raises:
        CredentialsError: the file cannot be read or a line is of another form. The line is named by its number only.
    """
    lines = read_file(path, "the token file").decode("utf-8", "replace").splitlines()
    named = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return tuple(_line(line.split(), f"line {number} of {path}") for number, line in named if line and line[0] != "#")


def _line(words: list[str], where: str) -> TokenLine:
    relay = len(words) > 1 and words[-1] == _RELAY
    *names, token = words[:-1] if relay else words
    if len(names) > 1 or (names and not _NAME.fullmatch(names[0])):
        raise CredentialsError(
            f"{where} is no token: [NAME] TOKEN [relay] is needed, with a name of up to {_MIN_LENGTH - 1} letters, "
            "digits and . _ -"
        )
    return TokenLine(_checked(token, where), names[0] if names else None, relay)


class AcceptedTokens:
    """The tokens that a server takes: those of all its token files. One that was taken out of its file is refused from
    the next call on; a file that is left without a token adds none.

    Raises:
        CredentialsError: a file cannot be read, or holds no token or something else.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not read_tokens(path):
                raise CredentialsError(f"the token file {path} holds no token")
        self._holders = Watched(paths, lambda: _holders([line for path in paths for line in read_tokens(path)]))

    def holder(self, metadata: Iterable[tuple[str, str | bytes]]) -> TokenHolder | None:
        """Whose token a call's metadata hold; None without one that is accepted. The time does not depend on which."""
        given = [value for key, value in metadata if key == AUTHORIZATION_KEY]
        if len(given) != 1 or not isinstance(given[0], str):
            return None
        scheme, _, token = given[0].partition(" ")
        hashed = _hash(token.strip())
        found: TokenHolder | None = None
        for accepted, holder in self._holders.get():
            found = holder if hmac.compare_digest(hashed, accepted) else found
        return found if scheme.lower() == _SCHEME else None


def _holders(lines: Sequence[TokenLine]) -> tuple[tuple[bytes, TokenHolder], ...]:
    """The tokens' hashes and their holders. Where no line says `relay`, every holder is believed."""
    everybody = not any(line.relay for line in lines)
    return tuple(
        (hashed, TokenHolder(line.name or hashed.hex()[:_DIGEST_CHARACTERS], line.relay or everybody))
        for line in lines
        for hashed in [_hash(line.token)]
    )


@dataclass(frozen=True)
class BearerToken:
    """Where a client's token comes from; exactly one of the three.

    Raises:
        CredentialsError: none or several are given.
    """

    file: Path | str | None = None  # its first token is sent; read again when the file changes
    environment: str | None = None  # name of a variable
    value: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.file, self.environment, self.value)) != 1:
            raise CredentialsError("a token comes from a file, from an environment variable or as its value: give one")

    def sender(self) -> "TokenSender":
        """
        Raises:
            CredentialsError: there is no token, or it is none.
        """
        return TokenSender(self)


class TokenSender:
    """The metadata by which a client proves itself. Thread-safe."""

    def __init__(self, source: BearerToken) -> None:
        if source.file is not None:
            path = Path(source.file)
            self._token = Watched([path], lambda: _first(path))
        else:
            self._token = Watched([], lambda: _given(source))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((AUTHORIZATION_KEY, f"Bearer {self._token.get()}"),)


def _first(path: Path) -> str:
    lines = read_tokens(path)
    if not lines:
        raise CredentialsError(f"the token file {path} holds no token")
    return lines[0].token


def _given(source: BearerToken) -> str:
    if source.environment is None:
        return _checked(source.value or "", "the value given")
    token = os.environ.get(source.environment)
    if token is None:
        raise CredentialsError(f"the environment variable {source.environment} is not set")
    return _checked(token.strip(), f"the environment variable {source.environment}")


def _checked(token: str, where: str) -> str:
    if not (_MIN_LENGTH <= len(token) <= _MAX_LENGTH and _TOKEN.fullmatch(token)):
        raise CredentialsError(
            f"{where} is no token: {_MIN_LENGTH} to {_MAX_LENGTH} letters, digits and . _ ~ + / - are needed"
        )
    return token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
