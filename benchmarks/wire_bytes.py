"""Measures the bytes that a full 2 x 2 image of LLaVA-NeXT-7B's shape takes on the wire, with and without compression.

    python -m benchmarks.wire_bytes [--ratio 0.1]

Serialised sizes of the very messages that are sent: grid, budgets and token chunks with features, scales and
positions. Features are random; their values do not change the size. "Uncut" is what a split behind the projector
sends: all 2880 tokens, 4096 wide, in half precision.
"""

import argparse

import torch
from visionsplit.grid import TileGrid
from visionsplit.network.transport import DEFAULT_CHUNK_BYTES
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DataType
from visionsplit.v1 import llm_service_pb2, vision_tokens_pb2
from visionsplit.wire.vision_tokens import grid_to_proto, split_into_chunks

from encoder_service.compression import TileFeatures, TowerOutput, select
from encoder_service.device.wire_tensors import pack, to_token_tensor

_GRID = TileGrid.padded(672, 672, rows=2, columns=2, side=24)
_VISION_WIDTH, _LANGUAGE_WIDTH = 1024, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes on the wire for one 2 x 2 image of LLaVA-NeXT-7B's shape.")
    parser.add_argument("--ratio", type=float, default=0.1, help="retention ratio of globalcom2")
    ratio = parser.parse_args().ratio
    print(f"{'tokens':>7}{'width':>7}  {'type':<9}{'messages':>9}{'MB':>9}")
    whole, cut = Compression("none"), Compression("globalcom2", ratio)
    for spec, width, data_type in (
        (whole, _LANGUAGE_WIDTH, DataType.FLOAT16),
        (whole, _VISION_WIDTH, DataType.BFLOAT16),
        (whole, _VISION_WIDTH, DataType.INT8),
        (cut, _VISION_WIDTH, DataType.FLOAT32),
        (cut, _VISION_WIDTH, DataType.BFLOAT16),
        (cut, _VISION_WIDTH, DataType.INT8),
    ):
        tokens, messages, size = measure(spec, width, data_type)
        print(f"{tokens:>7}{width:>7}  {data_type.name.lower():<9}{messages:>9}{size / 1e6:>9.3f}")


def measure(spec: Compression, width: int, data_type: DataType) -> tuple[int, int, int]:
    """Tokens, messages and serialised bytes of one image's upload."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(_GRID.num_tiles, _GRID.cells_per_tile, generator=generator)
    encoded = TileFeatures(scores[..., None], {TowerOutput.SALIENCE: scores})
    kept = select(encoded, _GRID, spec)
    positions = torch.cat(kept.positions).to(torch.int32).numpy()  # [K, 3]
    features = to_token_tensor(pack(torch.randn(len(positions), width, generator=generator), data_type))
    header = llm_service_pb2.GenerateHeader(grids=[grid_to_proto(_GRID)])
    budgets = vision_tokens_pb2.ImageTokensHeader(budgets=kept.budgets)
    chunks = split_into_chunks(features, positions, image_index=0, first_chunk=0, chunk_bytes=DEFAULT_CHUNK_BYTES)
    request = llm_service_pb2.LlmServiceGenerateRequest
    messages = [request(header=header), request(image=budgets), *(request(tokens=chunk) for chunk in chunks)]
    return len(positions), len(messages), sum(message.ByteSize() for message in messages)


if __name__ == "__main__":
    main()
