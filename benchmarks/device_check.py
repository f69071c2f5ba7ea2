"""Whether the two services answer like the whole model on a device: text tokens compared, in float32.

    python -m benchmarks.device_check [--device cuda]

Random checkpoints with each kind of language backbone, and the shipped one. On a GPU the services and the whole model
may use different kernels, so a near tie can fall either way: a row says how many answers are equal.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from visionsplit_client import Compression, Prompt, Sampling
from visionsplit_local import VisionSplit

from benchmarks.shapes import SHIPPED
from tests.checkpoints import tiny_checkpoint
from tests.integration.system import WholeModel
from tests.noise import noise_image

SIZES = [(112, 112), (112, 56), (56, 168), (640, 480), (333, 77), (1, 1)]
PROMPT = "USER: <image>\nWhat is in the image? ASSISTANT:"
NEW_TOKENS = 16


def check(checkpoint: Path, device: str) -> int:
    """The number of answers that equal the whole model's."""
    whole = WholeModel(checkpoint)
    whole.model.to(device)
    equal = 0
    with VisionSplit(str(checkpoint), device=device, dtype="float32") as model:
        for width, height in SIZES:
            image = noise_image(width, height)
            answer = model.generate(
                image,
                Prompt.raw(PROMPT),
                compression=Compression("none"),
                data_type="float32",
                sampling=Sampling(max_new_tokens=NEW_TOKENS),
            )
            equal += answer.token_ids == whole.generate([image], PROMPT, NEW_TOKENS)
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether the services answer like the whole model on a device.")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one"
    )
    device: str = parser.parse_args().device
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {text: tiny_checkpoint(Path(folder) / text, text) for text in ("llama", "mistral", "qwen2")}
        print(f"{device}: answers of {NEW_TOKENS} tokens equal to the whole model's")
        for name, checkpoint in {**checkpoints, "shipped": SHIPPED}.items():
            print(f"{name:<10}{check(checkpoint, device)} of {len(SIZES)}", flush=True)


if __name__ == "__main__":
    main()
