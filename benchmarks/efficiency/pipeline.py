"""One image after another through the parts that the services run, put together in this process.

From pixels to tokens: the encoder service's batch (vision tower, scores, choice, packing, copy to the host), the LLM
service's layout and projector, the text model's prefill and greedy decoding. Cutting the image into tiles, sockets and
the scheduler are left out; the language model runs as the transformers library runs it alone, not batched with others.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.families.llava_next.language import Projector
from visionsplit.families.token_order import NEWLINE, canvas_order

from benchmarks.efficiency.clock import Clock
from benchmarks.efficiency.conditions import Condition
from benchmarks.efficiency.encoding import EncoderHalf
from benchmarks.efficiency.flops import flop_counter
from benchmarks.efficiency.language import ImageRows, LanguageModel, decode
from encoder_service.device.encoding import EncodedTiles
from llm_service.pruning.base import NO_TILE
from llm_service.replica.text_model import load_text_model

# About as much text as LLaVA-NeXT's prompt with a short question has, before and behind the image.
TEXT_BEFORE, TEXT_AFTER = 36, 24


@dataclass(frozen=True)
class Outcome:
    """The result for one image."""

    vision_tokens: int  # tokens that enter the language model: kept tokens and newlines
    layer_tokens: tuple[int, ...]  # prompt tokens in each layer's cache
    cache_bytes: int  # keys and values after the prefill


@dataclass(frozen=True)
class Work:
    """Operations of one image's matrix products."""

    encoder: int  # vision tower, scores and choice
    prefill: int  # of the whole prompt, with the scores of pruning inside the language model


class Pipeline:
    """Both halves of a model on one device."""

    def __init__(self, checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load or draw the weights.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        self.device, self.dtype = device, dtype
        self._encoder = EncoderHalf(checkpoint, device=device, dtype=dtype)
        self._projector = Projector(checkpoint, device=device, dtype=dtype)
        model = load_text_model(checkpoint, device=device, dtype=dtype)
        self._language = LanguageModel(model)
        modules: tuple[nn.Module, ...] = (self._encoder.tower, self._projector, model)
        self.weights = sum(parameter.numel() for module in modules for parameter in module.parameters())
        self.num_layers = int(model.config.num_hidden_layers)
        vocabulary, generator = model.config.vocab_size, torch.Generator().manual_seed(0)
        self._text = torch.randint(vocabulary, (TEXT_BEFORE + TEXT_AFTER,), generator=generator).to(device)

    @property
    def runner(self) -> str:
        """How the language model is run, and which attention kernel PyTorch uses for a whole image."""
        kernel = self._language.attention_kernel(sum(self._encoder.grid.valid_counts()) + len(self._text))
        return f"{self._language.runner}, sdpa attention, kernel of the prefill {kernel}"

    @torch.inference_mode()
    def count(self, condition: Condition) -> tuple[Outcome, Work]:
        """Run one image under PyTorch's operation counter, which also warms everything up."""
        encoded, work = self._encoder.counted(condition.compression)
        embeddings, image = self._embed(encoded, condition)
        with flop_counter() as counter:
            prefilled = self._language.prefill(embeddings, image, condition.pruning)
        decode(prefilled, 2)
        outcome = Outcome(len(image.tiles), prefilled.layer_tokens, prefilled.cache_bytes)
        return outcome, Work(work, int(counter.get_total_flops()))

    @torch.inference_mode()
    def run(self, condition: Condition, new_tokens: int, clock: Clock) -> list[int]:
        """Answer about the image: token ids. The clock gets the marks that `measure.STAGES` names."""
        clock.mark("start")
        encoded = self._encoder.timed(condition.compression, clock)
        clock.mark("chosen")
        embeddings, image = self._embed(encoded, condition)
        clock.mark("projected")
        prefilled = self._language.prefill(embeddings, image, condition.pruning)
        clock.mark("prefilled")
        ids = decode(prefilled, new_tokens)
        clock.mark("decoded")
        return ids

    def _embed(self, encoded: EncodedTiles, condition: Condition) -> tuple[torch.Tensor, ImageRows]:
        """The prompt's embeddings [n, D], and the positions of vision tokens and newlines."""
        order = canvas_order(self._encoder.grid, encoded.positions, condition.compression.layout)
        rows = self._projector(encoded.features, self._encoder.grid, order)  # [vision, D]
        text = self._language.embed(self._text)  # [text, D]
        embeddings = torch.cat((text[:TEXT_BEFORE], rows, text[TEXT_BEFORE:]))
        tiles = np.where(order == NEWLINE, NO_TILE, encoded.positions[order, 0])  # [vision]
        return embeddings, ImageRows(TEXT_BEFORE, torch.from_numpy(tiles).long(), encoded.quotas)
