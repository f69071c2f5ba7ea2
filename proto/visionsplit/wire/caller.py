"""Who calls, as far as fairness goes: whose queued work a call waits behind."""

from typing import Any

import grpc.aio

CALLER_KEY = "visionsplit-caller"  # metadata: on whose behalf the encoder service calls the LLM service
_MAX_LENGTH = 128


def caller_of(context: "grpc.aio.ServicerContext[Any, Any]", *, relayed: bool = False) -> str:
    """The caller's name: where it calls from, without the port, which differs from connection to connection.

    Args:
        relayed: believe a caller that says on whose behalf it calls. It decides only who takes turns with whom.
    """
    if relayed:
        for key, value in context.invocation_metadata() or ():
            if key == CALLER_KEY and value:
                return str(value)[:_MAX_LENGTH]
    peer = str(context.peer())
    if peer.startswith(("ipv4:", "ipv6:")):
        peer = peer.rpartition(":")[0]
    return peer[:_MAX_LENGTH]
