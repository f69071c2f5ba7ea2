"""Who calls, as far as fairness goes: whose queued work a call waits behind."""

from typing import Any

import grpc.aio

from visionsplit.wire.security.tokens import AcceptedTokens, TokenHolder

CALLER_KEY = "visionsplit-caller"  # metadata: on whose behalf the encoder service calls the LLM service
_MAX_LENGTH = 128


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
        connection to connection."""
        metadata = context.invocation_metadata() or ()
        holder = None if self._tokens is None else self._tokens.holder(metadata)
        if self._believes(holder):
            for key, value in metadata:
                if key == CALLER_KEY and value:
                    return str(value)[:_MAX_LENGTH]
        return _peer(context) if holder is None else f"token:{holder.name}"

    def _believes(self, holder: TokenHolder | None) -> bool:
        if not self._relayed:
            return False
        return self._tokens is None or (holder is not None and holder.relay)


def _peer(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    peer = str(context.peer())
    if peer.startswith(("ipv4:", "ipv6:")):
        peer = peer.rpartition(":")[0]
    return peer[:_MAX_LENGTH]
