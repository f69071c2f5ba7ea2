"""Decides which connections go through an HTTP proxy, from the usual environment variables.

Connections to this machine never use a proxy. For other hosts, `no_proxy` (or `NO_PROXY`) lists those that are reached
directly, separated by commas: `*` for all, a domain with or without a leading dot for its hosts, a host with or without
a port, an IP address, or a network such as 10.0.0.0/8.
"""

import ipaddress
import os
import urllib.request
from dataclasses import dataclass

from visionsplit.network.addresses import host_of, ip_of, is_this_machine

# In the order of gRPC, which reads these names only in lower case.
_GRPC_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_GRPC_EXCEPTIONS = "no_grpc_proxy"


@dataclass(frozen=True)
class Proxy:
    """A proxy and the setting that names it."""

    url: str  # may hold a password
    setting: str  # such as "https_proxy"

    @property
    def location(self) -> str:
        """HOST:PORT, without a password."""
        # The user's part ends at the last @: a password may contain an unencoded slash, and must not be shown.
        return self.url.partition("://")[2].rpartition("@")[2].partition("/")[0]

    def hint(self, host: str) -> str:
        """Advice to append to the error of a connection to `host`."""
        return (
            f"the connection goes through the proxy {self.location}, which {self.setting} names; "
            f"add {host} to no_proxy to connect directly"
        )


def grpc_proxy(address: str) -> Proxy | None:
    """The proxy for a gRPC connection to an address that `check_address` accepts; None connects directly.

    gRPC reads grpc_proxy, https_proxy and http_proxy, in lower case, and supports only HTTP proxies. It reads
    no_grpc_proxy in addition to no_proxy.
    """
    host = host_of(address)
    variable = next((name for name in _GRPC_VARIABLES if os.environ.get(name)), None)
    if host is None or variable is None:
        return None
    proxy = Proxy(_with_scheme(os.environ[variable]), variable)
    port = address.rpartition(":")[2]
    exempt = _is_exempt(host, port) or _is_listed(host, port, os.environ.get(_GRPC_EXCEPTIONS, ""))
    return None if exempt or not proxy.url.startswith("http://") else proxy


def proxy_options(address: str) -> list[tuple[str, str | int]]:
    """The options of a gRPC channel that select a proxy.

    They are set explicitly, because gRPC's own rules use the proxy for loopback addresses too.
    """
    proxy = grpc_proxy(address)
    if proxy is None:
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", proxy.url)]


def web_proxy(scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a request to an http or https URL; None connects directly. System settings are read as well."""
    proxies = urllib.request.getproxies()
    kind = next((kind for kind in (scheme, "all") if proxies.get(kind)), None)
    if kind is None or _is_exempt(host, str(port)) or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    return Proxy(_with_scheme(proxies[kind]), f"{kind}_proxy")


def _is_exempt(host: str, port: str) -> bool:
    return is_this_machine(host) or _is_listed(host, port, os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""))


def _is_listed(host: str, port: str, no_proxy: str) -> bool:
    """Whether a host is in a list of the form that this module describes."""
    # Python's own rules support "*" only alone, and before a domain a leading dot but not "*.".
    entries = [f".{entry[2:]}" if entry.startswith("*.") else entry for entry in map(str.strip, no_proxy.split(","))]
    if "*" in entries or f"[{host.strip('[]')}]:{port}" in entries:
        return True
    listed = {"no": ",".join(entries)}
    if urllib.request.proxy_bypass_environment(f"{host}:{port}", listed):  # type: ignore[attr-defined]
        return True
    ip = ip_of(host)
    return ip is not None and any(ip in network for network in _networks(no_proxy))


def _networks(no_proxy: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = []
    for entry in no_proxy.split(","):
        try:
            networks.append(ipaddress.ip_network(entry.strip().strip("[]"), strict=False))
        except ValueError:  # a name
            continue
    return networks


def _with_scheme(proxy: str) -> str:
    return proxy if "://" in proxy else f"http://{proxy}"
