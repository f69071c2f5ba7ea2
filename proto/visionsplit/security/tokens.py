"""Bearer tokens, which identify callers. Tokens are stored in files and never appear in logs, errors or reprs."""

import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionsplit.security.reloaded_files import CredentialsError, ReloadingFiles, read_file

AUTHORIZATION_KEY = "authorization"  # metadata key
TOKEN_VARIABLE = "VISIONSPLIT_TOKEN"

_SCHEME = "bearer"
_MIN_LENGTH = 16
_MAX_LENGTH = 1024  # gRPC accepts 8 KiB of metadata in all
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
# Shorter than any token, so that a token cannot be taken for a name, which may be shown.
_NAME = re.compile(rf"[A-Za-z0-9._-]{{1,{_MIN_LENGTH - 1}}}")
_RELAY = "relay"
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True)
class TokenLine:
    """A line of a token file: `[NAME] TOKEN [relay]`."""

    token: str = field(repr=False)
    name: str | None = None  # the holder's name; several tokens may have the same
    relay: bool = False  # whether the holder calls on behalf of others, and may name them


@dataclass(frozen=True)
class TokenHolder:
    """The holder of an accepted token, in a form that may be shown."""

    name: str  # from the token file, else a digest of the token
    relay: bool  # whether the holder may name the caller on whose behalf it calls


def read_tokens(path: Path) -> tuple[TokenLine, ...]:
    """The tokens of a file, one per line; empty lines and lines that begin with # are skipped.

    Raises:
        CredentialsError: the file cannot be read, or a line is invalid. The error gives only the line's number.
    """
    lines = read_file(path, "the token file").decode("utf-8", "replace").splitlines()
    named = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return tuple(_line(line.split(), f"line {number} of {path}") for number, line in named if line and line[0] != "#")


def _line(words: list[str], where: str) -> TokenLine:
    relay = len(words) > 1 and words[-1] == _RELAY
    *names, token = words[:-1] if relay else words
    if len(names) > 1 or (names and not _NAME.fullmatch(names[0])):
        raise CredentialsError(
            f"{where}: invalid line; expected [NAME] TOKEN [relay], with a name of up to {_MIN_LENGTH - 1} characters "
            "of A-Z a-z 0-9 . _ -"
        )
    return TokenLine(_checked(token, where), names[0] if names else None, relay)


class AcceptedTokens:
    """The tokens of all of a server's token files.

    A token that is removed from its file is refused from the next call on; a file that becomes empty adds none.

    Raises:
        CredentialsError: a file cannot be read, contains no token, or has an invalid line.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not read_tokens(path):
                raise CredentialsError(f"the token file {path} holds no token")
        self._holders = ReloadingFiles(paths, lambda: _holders([line for path in paths for line in read_tokens(path)]))

    def holder(self, metadata: Iterable[tuple[str, str | bytes]]) -> TokenHolder | None:
        """The holder of the token in a call's metadata; None without a valid token. Compares in constant time."""
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
    """The hashes of the tokens, and their holders. If no line says `relay`, every holder counts as a relay."""
    all_relay = not any(line.relay for line in lines)
    return tuple(
        (hashed, TokenHolder(line.name or hashed.hex()[:_DIGEST_CHARACTERS], line.relay or all_relay))
        for line in lines
        for hashed in [_hash(line.token)]
    )


@dataclass(frozen=True)
class BearerToken:
    """The source of a client's token; exactly one of the three is set.

    Raises:
        CredentialsError: none or several are set.
    """

    file: Path | str | None = None  # its first token is sent; the file is read again when it changes
    environment: str | None = None  # name of an environment variable
    value: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.file, self.environment, self.value)) != 1:
            raise CredentialsError("give a token as exactly one of a file, an environment variable or a value")

    def sender(self) -> "TokenSender":
        """The object that adds the token to calls.

        Raises:
            CredentialsError: there is no token, or it is invalid.
        """
        return TokenSender(self)


class TokenSender:
    """Provides the metadata that authenticates a client. Thread-safe."""

    def __init__(self, source: BearerToken) -> None:
        if source.file is not None:
            path = Path(source.file)
            self._token = ReloadingFiles([path], lambda: _first(path))
        else:
            self._token = ReloadingFiles([], lambda: _given(source))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        return ((AUTHORIZATION_KEY, f"Bearer {self._token.get()}"),)


def _first(path: Path) -> str:
    lines = read_tokens(path)
    if not lines:
        raise CredentialsError(f"the token file {path} holds no token")
    return lines[0].token


def _given(source: BearerToken) -> str:
    if source.environment is None:
        return _checked(source.value or "", "the given value")
    token = os.environ.get(source.environment)
    if token is None:
        raise CredentialsError(f"the environment variable {source.environment} is not set")
    return _checked(token.strip(), f"the environment variable {source.environment}")


def _checked(token: str, where: str) -> str:
    if not (_MIN_LENGTH <= len(token) <= _MAX_LENGTH and _TOKEN.fullmatch(token)):
        raise CredentialsError(
            f"{where}: invalid token; expected {_MIN_LENGTH} to {_MAX_LENGTH} characters of A-Z a-z 0-9 . _ ~ + / -"
        )
    return token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
