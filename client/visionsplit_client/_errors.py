"""The errors a client raises.

    VisionSplitError                       base; see visionsplit.errors for the whole tree, which is re-exported here
    ├── (all errors of the services)       with the class that the service raised
    ├── UnavailableError
    │   └── UnreachableError               no connection; the text names the address, and the proxy if there is one
    ├── DeadlineError                      the call's timeout passed
    ├── IncompatibleServicesError          also: the address belongs to another service; the text names it
    └── ImageFetchError                    an image behind an http(s) URL could not be fetched

Mistakes on this side keep Python's own classes: a missing file is FileNotFoundError, an object that is not an image
TypeError, a wrong option ValueError.
"""

from collections.abc import Iterable

import grpc
from visionsplit.errors import DeadlineError, IncompatibleServicesError, UnavailableError, VisionSplitError
from visionsplit.network.addresses import host_of
from visionsplit.network.proxies import grpc_proxy
from visionsplit.wire.grpc_status import ERROR_METADATA_KEY, error_from_rpc


class UnreachableError(UnavailableError):
    """The service at `address` cannot be reached, or the connection was lost."""

    def __init__(self, message: str = "", address: str = "") -> None:
        super().__init__(message)
        self.address = address


class ImageFetchError(VisionSplitError):
    """An image behind a URL could not be fetched: no answer, an HTTP error, too large, or too slow."""


def call_error(error: grpc.RpcError, address: str, timeout: float | None, service: str) -> VisionSplitError:
    """The error behind a failed call. An error that the service did not report itself names its address.

    Args:
        service: what the caller takes the address for, such as "an encoder service".
    """
    failure = error_from_rpc(error)
    metadata: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    if any(key == ERROR_METADATA_KEY for key, _ in metadata):
        return failure
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return IncompatibleServicesError(f"{address} is not {service}: it does not know the call")
    if isinstance(failure, UnavailableError):
        text = f"the service at {address} cannot be reached: {failure}{_proxy_hint(address)}"
        return UnreachableError(text, address)
    if isinstance(failure, DeadlineError) and timeout is not None:
        return DeadlineError(f"no complete answer from {address} within {timeout:g} seconds{_proxy_hint(address)}")
    return failure


def _proxy_hint(address: str) -> str:
    proxy, host = grpc_proxy(address), host_of(address)
    return "" if proxy is None or host is None else f" ({proxy.hint(host)})"
