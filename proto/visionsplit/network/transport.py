"""Message sizes and channel options that both ends of a connection use."""

from visionsplit.network.proxies import proxy_options

KIB = 1024
MIB = 1024 * KIB

MIN_CHUNK_BYTES = 256 * KIB
MAX_CHUNK_BYTES = 1 * MIB
DEFAULT_CHUNK_BYTES = 512 * KIB
# One chunk and its envelope; requests with images may be larger.
MAX_TOKEN_MESSAGE_BYTES = 4 * MIB
MAX_IMAGE_REQUEST_BYTES = 64 * MIB

ChannelOptions = list[tuple[str, str | int]]


def channel_options(address: str) -> ChannelOptions:
    """Options of a channel to either service.

    gRPC's own retries are disabled: gRPC gives up retrying as soon as the request outgrows its small replay buffer,
    which an image does. The client SDK retries instead, and only before the first text.
    """
    return [
        *proxy_options(address),
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", MAX_IMAGE_REQUEST_BYTES),
        ("grpc.max_receive_message_length", MAX_TOKEN_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
