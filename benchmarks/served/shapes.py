"""Random checkpoints of LLaVA-NeXT's shapes, drawn on the device and written to a folder."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.checkpoints import tiny_checkpoint

_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_VISION = {  # CLIP ViT-L/14 at 336 pixels
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "hidden_act": "quick_gelu",
}


def _llama(hidden: int, intermediate: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 32064,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "max_position_embeddings": 4096,
    }


@dataclass(frozen=True)
class Shape:
    """A model, and the side of the images that it is asked about: five tiles."""

    name: str
    language: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    pinpoints: list[list[int]] | None = None
    image_side: int = 672

    def write(self, folder: Path, device: torch.device) -> Path:
        """Write the checkpoint in the device's usual data type, without an end token, so that no answer ends early."""
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        tiny_checkpoint(
            folder,
            pinpoints=self.pinpoints,
            vision=self.vision,
            language={**self.language, "eos_token_id": None},
            device=str(device),
            dtype=dtype,
        )
        (folder / "generation_config.json").write_text('{"bos_token_id": 2, "do_sample": false}\n')
        return folder


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", image_side=112),
        Shape("7b", _llama(4096, 11008, 32, 32), _VISION, _PINPOINTS),
        Shape("13b", _llama(5120, 13824, 40, 40), _VISION, _PINPOINTS),
    )
}


def main(arguments: Sequence[str]) -> None:
    """`python -m benchmarks.served.shapes NAME FOLDER DEVICE` writes a checkpoint, and leaves no memory taken."""
    name, folder, device = arguments
    SHAPES[name].write(Path(folder), torch.device(device))


if __name__ == "__main__":
    main(sys.argv[1:])
