"""The loop to compare with: batches of images through `LlavaNextForConditionalGeneration.generate`, read in order.

    python -m benchmarks.batch.loop --model M --images FOLDER [--batch-sizes 1 4 8] [--prompt TEXT] [--max-new-tokens N]

The loop runs in a separate process, with PyTorch's default number of threads, in float32 like the services on a CPU,
and decodes greedily. It prints one JSON document. One image is captioned before times are taken.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor


@dataclass(frozen=True)
class Caption:
    """One answer."""

    text: str
    tokens: int  # generated, including the end of the sequence


@dataclass(frozen=True)
class LoopRun:
    """The results for all images at one batch size."""

    batch_size: int
    seconds: float
    prepare_seconds: float  # part of that: files to tiles and token ids
    tower_seconds: float  # part of that: in the vision tower
    captions: dict[str, Caption]  # by file name


class Loop:
    """The loaded model."""

    def __init__(self, model: str, prompt: str, max_new_tokens: int) -> None:
        self._processor = LlavaNextProcessor.from_pretrained(model)
        self._processor.tokenizer.padding_side = "left"  # so that answers start where prompts end
        self._model = LlavaNextForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
        self._prompt = prompt
        self._max_new_tokens = max_new_tokens
        self._entered = self._tower_seconds = 0.0
        tower = self._model.model.vision_tower
        tower.register_forward_pre_hook(self._enter_tower)
        tower.register_forward_hook(self._leave_tower)

    def run(self, paths: Sequence[Path], batch_size: int) -> LoopRun:
        """Caption all images in their order."""
        captions: dict[str, Caption] = {}
        prepare_seconds, self._tower_seconds = 0.0, 0.0
        started = time.perf_counter()
        for first in range(0, len(paths), batch_size):
            batch, began = paths[first : first + batch_size], time.perf_counter()
            inputs = self.prepare(list(_read(batch)), [self._prompt] * len(batch))
            prepare_seconds += time.perf_counter() - began
            for path, ids in zip(batch, self.answers(inputs, self._max_new_tokens), strict=True):
                captions[path.name] = Caption(self.text(ids), len(ids))
        seconds = time.perf_counter() - started
        return LoopRun(batch_size, seconds, prepare_seconds, self._tower_seconds, captions)

    def prepare(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Any:  # noqa: ANN401 - the library's BatchFeature, which has no types
        """The model's inputs for one question about each image, padded on the left."""
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return self._processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    @torch.inference_mode()
    def answers(self, inputs: Any, max_new_tokens: int, streamer: object | None = None) -> list[list[int]]:  # noqa: ANN401
        """The ids of the answers to prepared inputs, the end of the sequence included.

        `streamer` gets each step's tokens, the prompts first.
        """
        output = self._model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
        answers = output[:, inputs["input_ids"].shape[1] :]  # [batch, new tokens]
        return [ids[: self._length(ids)] for ids in answers.tolist()]

    def text(self, answer: list[int]) -> str:
        return str(self._processor.decode(answer, skip_special_tokens=True)).strip()

    def _length(self, answer: list[int]) -> int:
        """Tokens up to the first that ends the sequence; those after it are padding."""
        end = self._model.generation_config.eos_token_id
        return answer.index(end) + 1 if end in answer else len(answer)

    def _enter_tower(self, *_: object) -> None:
        self._entered = time.perf_counter()

    def _leave_tower(self, *_: object) -> None:
        self._tower_seconds += time.perf_counter() - self._entered


def _read(paths: Sequence[Path]) -> Iterator[Image.Image]:
    for path in paths:
        with Image.open(path) as image:
            yield image.convert("RGB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch.loop", description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--prompt", default="Describe the image.")
    parser.add_argument("--max-new-tokens", type=int, default=16)
    options = parser.parse_args(arguments)
    paths = sorted(options.images.iterdir())
    loop = Loop(options.model, options.prompt, options.max_new_tokens)
    loop.run(paths[:1], 1)
    runs = [asdict(loop.run(paths, batch_size)) for batch_size in options.batch_sizes]
    json.dump({"threads": torch.get_num_threads(), "torch": torch.__version__, "runs": runs}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
