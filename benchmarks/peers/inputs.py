"""The checkpoints, images and questions. Every contestant gets the same ones in the same order."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from visionsplit.families.checkpoint import Checkpoint

from benchmarks.batch import inputs as batch_inputs
from benchmarks.peers.plan import SHIPPED as SHIPPED_MODEL
from benchmarks.shapes import SHIPPED
from tests.checkpoints import tiny_checkpoint
from training.dialogue.held_out import Example, held_out
from training.dialogue.questions import Question, Topic

_PROMPT = "Describe the image."
# For a quick try. vLLM's attention on a CPU needs heads of 32 or more.
_TINY_LANGUAGE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
_FIRST_SCENE = 200  # after the scenes with which a method's parameter was chosen
_END = "eos_token_id"


@dataclass(frozen=True)
class Request:
    """One question about one image. No two requests of a contestant have the same image, so no cache answers."""

    image: bytes  # a JPEG file
    prompt: str
    example: Example | None = None  # with a right answer:
    question: Question | None = None


def proportioned(folder: Path, *, tiny: bool) -> Path:
    """A random checkpoint that never ends an answer, so that every contestant generates as many tokens as are asked."""
    written = folder / "written"
    if tiny:
        tiny_checkpoint(written, language=_TINY_LANGUAGE)
    else:
        batch_inputs.checkpoint(batch_inputs.PROPORTIONED, written)
    copy = with_hub_names(written, folder / "model")
    settings = copy / "generation_config.json"
    kept = {name: value for name, value in json.loads(settings.read_text()).items() if name != _END}
    settings.write_text(json.dumps(kept))
    shutil.rmtree(written)
    return copy


def shipped(folder: Path) -> Path:
    """The shipped model, which ends its answers."""
    return with_hub_names(SHIPPED, folder / "model")


def with_hub_names(source: Path, folder: Path) -> Path:
    """Copy a checkpoint, with the tensor names of the hub's LLaVA-NeXT files: vLLM reads no others."""
    checkpoint = Checkpoint(str(source))
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    tensors = {_hub_name(name): tensor for name, tensor in checkpoint.read(sorted(checkpoint.tensor_names))}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _hub_name(name: str) -> str:
    """The hub's spelling of a canonical name, see `visionsplit.families.checkpoint`."""
    tower = "vision_tower."
    return f"{tower}vision_model.{name.removeprefix(tower)}" if name.startswith(tower) else name


class Requests:
    """The requests by number, made when they are first needed."""

    def __init__(self, model: str, tile: int) -> None:
        """`tile`: pixels of the shipped model's tiles, for which its scenes are drawn."""
        self._shipped = model == SHIPPED_MODEL
        self._tile = tile
        self._made: list[Request] = []

    def between(self, first: int, end: int) -> Sequence[Request]:
        """Requests `first` to `end` - 1."""
        while len(self._made) < end:
            number = len(self._made)
            self._made.append(self._question(number) if self._shipped else self._caption(number))
        return self._made[first:end]

    def _caption(self, number: int) -> Request:
        return Request(batch_inputs.jpeg(held_out(number, batch_inputs.IMAGE_TILE).scene), _PROMPT)

    def _question(self, number: int) -> Request:
        """One question about a held-out scene: topics in turn, captions left out since they are not right or wrong."""
        example = held_out(_FIRST_SCENE + number, self._tile)
        asked = [question for question in example.questions if question.topic is not Topic.CAPTION]
        question = asked[number % len(asked)]
        return Request(batch_inputs.jpeg(example.scene), question.text, example, question)
