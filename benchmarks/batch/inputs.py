"""The images that are captioned, and the models."""

import io
from collections.abc import Iterable
from pathlib import Path

from tests.checkpoints import tiny_checkpoint
from training.dialogue.held_out import held_out
from training.scenes.render import render
from training.scenes.scene import Scene

PROPORTIONED = "proportioned"
TINY = "tiny"
_TILE = 168  # pixels, of both models
IMAGE_TILE = 336  # pixels of the tiles for which images are drawn: like photographs, they are larger than necessary
_JPEG_QUALITY = 90
# Width of the vision tower and depth of the language model are chosen so that, as in LLaVA-NeXT-7B, the prefill of an
# image of 2 x 2 tiles has some 23 times the operations of the vision tower, a ninth of them in attention. 144 tokens
# a tile in place of 576: at 2,880 tokens a model that a CPU can run would do little else than attention.
_VISION = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "image_size": _TILE,
    "projection_dim": 256,
}
_LANGUAGE = {
    "hidden_size": 1024,
    "intermediate_size": 2752,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "max_position_embeddings": 4096,
}
_PINPOINTS = [[168, 336], [336, 168], [336, 336], [504, 168], [168, 504]]  # LLaVA-NeXT's five grids, height and width


def write_images(folder: Path, numbers: Iterable[int]) -> Path:
    """Draw different scenes as JPEG files: wide, tall and square, 200 to 1,800 pixels. Returns the folder."""
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:05d}.jpg").write_bytes(jpeg(held_out(number, IMAGE_TILE).scene))
    return folder


def jpeg(scene: Scene) -> bytes:
    """The scene as a JPEG file."""
    buffer = io.BytesIO()
    render(scene).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def checkpoint(name: str, folder: Path) -> Path:
    """The checkpoint's folder: `name` itself, or the model that `name` stands for, with random weights, in `folder`."""
    if name == PROPORTIONED:
        return tiny_checkpoint(folder, pinpoints=_PINPOINTS, vision=_VISION, language=_LANGUAGE)
    if name == TINY:
        return tiny_checkpoint(folder)
    return Path(name)
