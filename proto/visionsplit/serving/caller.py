"""Who calls, as far as fairness goes: whose queued work a call waits behind."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import grpc.aio

from visionsplit.security.tokens import AcceptedTokens, TokenHolder
from visionsplit.serving.fairness import RelayedCaller

CALLER_KEY = "visionsplit-caller"  # metadata: on whose behalf the encoder service calls the LLM service
_MAX_LENGTH = 128
_NETWORK_BITS = 64
_ACCEPTED = re.compile(rf"[!-~]{{1,{_MAX_LENGTH}}}")  # names of tokens, and addresses as gRPC writes them


class Callers:
    """Names the callers of one service. A name decides only who takes turns with whom, and whose part of the room a
    call takes."""

    def __init__(self, tokens: AcceptedTokens | None, *, relayed: bool = False) -> None:
        """
        Args:
            tokens: those that the service takes; None lets everybody in.
            relayed: believe a caller that says on whose behalf it calls, where nobody needs a token or its token is
                one of a relay.
        """
        self._tokens = tokens
        self._relayed = relayed

    def of(self, context: "grpc.aio.ServicerContext[Any, Any]") -> str:
        """The holder of the call's token; without tokens where it comes from, less the port, which differs from
        connection to connection; of an IPv6 address only the network counts. The name that a relay gives takes the
        place of either, and without tokens, where anybody may say to be a relay, it is a `RelayedCaller` of the
        address."""
        metadata = context.invocation_metadata() or ()
        holder = None if self._tokens is None else self._tokens.holder(metadata)
        name = _named(metadata) if self._believes(holder) else None
        if holder is None:
            return _peer(context) if name is None else RelayedCaller(name, _peer(context))
        return name or f"token:{holder.name}"

    def _believes(self, holder: TokenHolder | None) -> bool:
        if not self._relayed:
            return False
        return self._tokens is None or (holder is not None and holder.relay)


def _named(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """On whose behalf a call is made, by its metadata. What could not be a name counts as none."""
    for key, value in metadata:
        if key == CALLER_KEY and isinstance(value, str) and _ACCEPTED.fullmatch(value):
            return value
    return None


def _peer(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    peer = str(context.peer())
    if peer.startswith(("ipv4:", "ipv6:")):
        peer = peer.rpartition(":")[0]
    if peer.startswith("ipv6:"):
        peer = _network(peer)
    return peer[:_MAX_LENGTH]


def _network(peer: str) -> str:
    """The network of an IPv6 address, of which a single customer or machine has all 2**64 addresses."""
    host = unquote(peer.removeprefix("ipv6:")).strip("[]").partition("%")[0]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return peer
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    return f"ipv6:{ipaddress.ip_network((address, _NETWORK_BITS), strict=False)}"
