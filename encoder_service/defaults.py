"""The encoder service's default settings.

This module imports nothing, so that the command line refuses a wrong option without waiting for PyTorch.
"""

LISTEN = "127.0.0.1:50051"
MAX_BATCH_TILES = 16
MAX_BATCH_WAIT_SECONDS = 0.002
MAX_QUEUED_TILES = 1024
IMAGE_THREADS = 4
MAX_DECODING_BYTES = 2 * 2**30
CACHE_MEMORY_BYTES = 256 * 2**20
CACHE_FOLDER_BYTES = 4 * 2**30
MAX_IMAGES = 16
MAX_CALLS = 128
RECEIVE_SECONDS = 120.0
CALLER_SHARE = 0.75
GRACE_SECONDS = 30.0
