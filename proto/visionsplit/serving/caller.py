"""Identifies the caller of each call, for fairness: a call waits behind earlier work of its own caller."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import grpc.aio

from visionsplit.security.tokens import AcceptedTokens, TokenHolder
from visionsplit.serving.fairness import RelayedCaller

CALLER_KEY = "visionsplit-caller"  # metadata key: the caller on whose behalf the encoder calls the LLM service
_MAX_LENGTH = 128
_NETWORK_BITS = 64
_ACCEPTED = re.compile(rf"[!-~]{{1,{_MAX_LENGTH}}}")  # names of tokens, and addresses as gRPC writes them


class Callers:
    """Names the callers of one service.

    A name decides only with whom a caller takes turns, and whose share of a limit its calls use.
    """

    def __init__(self, tokens: AcceptedTokens | None, *, relayed: bool = False) -> None:
        """
        Args:
            tokens: the service's tokens; None if it accepts calls without one.
            relayed: whether to believe a caller that names another on whose behalf it calls. It is believed if no
                token is needed, or if its token belongs to a relay.
        """
        self._tokens = tokens
        self._relayed = relayed

    def of(self, context: "grpc.aio.ServicerContext[Any, Any]") -> str:
        """The name of a call's caller.

        With tokens it is the holder of the call's token. Without tokens it is the address that the call comes from,
        without the port, which differs between connections; of an IPv6 address only the network counts. A name given by
        a relay replaces either. Without tokens any client may claim to be a relay, so the name is then a
        `RelayedCaller` of the address.
        """
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
    """The caller that the metadata names as the one on whose behalf a call is made; None if it is not a valid name."""
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
    """The network of an IPv6 address: a single customer or machine has all of its 2**64 addresses."""
    host = unquote(peer.removeprefix("ipv6:")).strip("[]").partition("%")[0]
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return peer
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    return f"ipv6:{ipaddress.ip_network((address, _NETWORK_BITS), strict=False)}"
