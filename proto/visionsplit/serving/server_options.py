"""Settings of the servers. Clients do not import this module: Python has `resource` only on Unix."""

import resource

from visionsplit.network.transport import KIB, MAX_TOKEN_MESSAGE_BYTES, ChannelOptions

# What a client may send of a call before the service reads it; the rest of a message that is being read comes on top.
READ_AHEAD_BYTES = 64 * KIB
_MIN_STREAMS = 128
_ONLY_UNCOMPRESSED = 1  # a bit for each algorithm; the first is none
_MAX_CONNECTIONS = 4096
_HANDSHAKE_SECONDS = 5  # for TLS and the first frames of HTTP/2 together
_IDLE_SECONDS = 120  # without a call; gRPC's clients connect again with their next call


def server_options(*, max_receive_bytes: int, max_calls: int) -> ChannelOptions:
    """Options of a server that accepts messages of up to `max_receive_bytes`.

    Args:
        max_receive_bytes: the largest message; gRPC compares it once a message has arrived completely.
        max_calls: how many calls the service runs at one time.
    """
    return [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_send_message_length", MAX_TOKEN_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # gRPC queues a GOAWAY for each ping that comes too soon: a few megabytes of pings took a gigabyte of memory and
        # held up other connections for ten seconds. With 0 pings may come at any rate, and each costs an answer.
        ("grpc.http2.max_ping_strikes", 0),
        # gRPC would raise the number of bytes that it reads ahead to 4 MiB as it learns how fast a connection is. After
        # its request, each call that runs could then fill so much memory with a message that no handler reads.
        ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.so_reuseport", 0),
        # One connection may bring all the calls that the service runs. It needs a limit: gRPC would hand any number of
        # opened and reset calls to the event loop, which takes milliseconds for each.
        ("grpc.max_concurrent_streams", max(_MIN_STREAMS, 2 * max_calls)),
        # A small message may unpack to gigabytes, and gRPC compares its size only afterwards. Images and features do
        # not become smaller.
        ("grpc.compression_enabled_algorithms_bitset", _ONLY_UNCOMPRESSED),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", _IDLE_SECONDS * 1000),
    ]


def max_connections() -> int:
    """Connections that a server accepts: most of the files that this process may open, the others being for its own
    use."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limited = open_files if open_files != resource.RLIM_INFINITY else _MAX_CONNECTIONS * 2
    return min(_MAX_CONNECTIONS, limited * 3 // 4)
