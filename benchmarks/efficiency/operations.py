"""The tables of operations; nothing is timed, so they are the same on every machine."""

from collections.abc import Iterable, Iterator

import torch
from transformers import CLIPVisionConfig
from visionsplit.options.compression import Compression

from benchmarks.efficiency.conditions import UNCOMPRESSED
from benchmarks.efficiency.encoding import EncoderHalf
from benchmarks.efficiency.flops import (
    LlamaShape,
    closed_form,
    counted_prefill,
    counted_projector,
    counted_tower,
)
from benchmarks.efficiency.shapes import RandomCheckpoint
from benchmarks.efficiency.tables import markdown
from benchmarks.shapes import CLIP_L, llava_next

POSTER_RATIOS = (1.0, 0.75, 0.5, 0.25, 0.1)
_TILES, _CELLS, _NEWLINES = 5, 576, 48  # of a 2 x 2 image without padding

EXPLANATION = """\
Closed form: LLM-Viewer's, the one papers print: R x 2880 tokens, no text, no newlines, batch 1; per layer
2n(4D^2+3Dm) + 4n^2 D + 5An^2 + 18nD, times the layers, and DV once. Counted: PyTorch's FlopCounterMode on the
transformers library's own LlamaForCausalLM, logits for the last token only, as in serving. The counter knows products
of matrices only, so it lacks the softmax (5An^2) and norms, residuals and activation (18nD), and finds 2DV where the
closed form has DV. These three columns make up the whole difference. Both count the full n x n attention; a causal
kernel computes about half of it, which would take off the column "causal".
"""


def prefill_table(shape: LlamaShape, ratios: tuple[float, ...] = POSTER_RATIOS) -> str:
    """Closed form and count, first at the nominal token numbers, then at the actual ones."""
    header = ("tokens", "closed form", "counted", "difference", "softmax", "norms etc.", "logits", "causal")
    nominal = [(f"{ratio * _TILES * _CELLS:.0f} ({ratio:.0%})", round(ratio * _TILES * _CELLS)) for ratio in ratios]
    real = [
        (f"{entering_tokens(ratio)} ({ratio:.0%} and {_NEWLINES} newlines)", entering_tokens(ratio)) for ratio in ratios
    ]
    return markdown(header, [_prefill_row(shape, name, tokens) for name, tokens in (*nominal, *real)])


def entering_tokens(ratio: float) -> int:
    """The tokens that enter the language model if each of five tiles keeps the ratio: truncated counts, newlines."""
    return _TILES * int(_CELLS * ratio) + _NEWLINES


def _prefill_row(shape: LlamaShape, name: str, tokens: int) -> list[str]:
    formula = closed_form(shape, [tokens] * shape.layers)
    counted = counted_prefill(shape.config(), tokens)
    parts = (formula.softmax, formula.elementwise, -formula.logits, formula.attention / 2)
    return [
        name,
        f"{formula.total / 1e12:.2f}",
        f"{counted / 1e12:.2f}",
        f"{(formula.total - counted) / formula.total:.2%}",
        *(f"{part / 1e12:.4f}" for part in parts),
    ]


def stages_table(shape: LlamaShape, methods: Iterable[str], ratios: tuple[float, ...] = POSTER_RATIOS) -> str:
    """The stages before the language model: tower and projector of LLaVA-NeXT's shape, and each method's choice."""
    config = llava_next(CLIP_L, shape.config())
    tower = counted_tower(config, _TILES, frozenset())
    rows = [["vision tower, 5 tiles", f"{tower / 1e12:.3f}", "100%"]]
    for ratio in ratios:
        tokens = _TILES * int(_CELLS * ratio)
        projector = counted_projector(config, tokens)
        rows.append(
            [f"projector, {tokens} tokens ({ratio:.0%})", f"{projector / 1e12:.3f}", f"{projector / tower:.1%}"]
        )
    for name, count in choices(config.vision_config, methods):
        rows.append([f"scores and choice, {name}", f"{count / 1e12:.6f}", f"{count / tower:.3%}"])
    return markdown(("stage", "TFLOPs, counted", "of the tower"), rows)


def choices(vision: CLIPVisionConfig, methods: Iterable[str], ratio: float = 0.1) -> Iterator[tuple[str, int]]:
    """Operations of the products that each method needs for its scores and choice at a ratio, counted while it runs.

    The tower that runs has the given width and heads and as few other weights as it can, since only the last layers
    take part; what it costs itself is taken off. Sorting, softmax and other steps without products count as nothing.
    """
    narrow = CLIPVisionConfig.from_dict(vision.to_dict())
    narrow.num_hidden_layers, narrow.intermediate_size = 2, 16
    text = LlamaShape(layers=1, width=16, intermediate=16, heads=1, vocabulary=16).config()
    checkpoint = RandomCheckpoint("narrow", llava_next(narrow, text))
    half = EncoderHalf(checkpoint, device=torch.device("cpu"), dtype=torch.float32)
    _, tower = half.counted(UNCOMPRESSED)
    for name in methods:
        if name != "none":
            yield name, half.counted(Compression(name, ratio))[1] - tower
