"""Pruning between layers as in the papers: full attention maps, loops, everything computed again for each token.

Written from the methods' descriptions, on a model with eager attention; shares no code with the service.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from llm_service.pruning import PromptLayout


@dataclass
class Sequence:
    """The tokens that one layer reads: the prompt's that are left, then the generated ones."""

    hidden: torch.Tensor  # [n, D]
    positions: list[int]
    vision: list[bool]
    tiles: list[int]
    prompt: int  # tokens of the prompt among them


def attention_and_output(model: PreTrainedModel, index: int, sequence: Sequence) -> tuple[np.ndarray, torch.Tensor]:
    """One layer: its attention map [n, n], mean over heads, and its output [n, D]."""
    layer, count = model.model.layers[index], len(sequence.hidden)
    mask = torch.zeros(1, 1, count, count)
    for query in range(count):
        mask[..., query, query + 1 :] = -math.inf
        if (window := window_of(model, index)) is not None:
            mask[..., query, : max(query - window + 1, 0)] = -math.inf
    rotation = model.model.rotary_emb(sequence.hidden[None], torch.tensor([sequence.positions]))
    hidden = sequence.hidden[None]
    mixed, weights = layer.self_attn(
        hidden_states=layer.input_layernorm(hidden), position_embeddings=rotation, attention_mask=mask
    )
    hidden = hidden + mixed
    hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    return weights[0].mean(0).double().numpy(), hidden[0]


def window_of(model: PreTrainedModel, index: int) -> int | None:
    """How many tokens a layer sees: in Mistral's models every layer has the window, in Qwen2's those named so."""
    if model.config.model_type == "qwen2" and model.config.layer_types[index] == "full_attention":
        return None
    return getattr(model.config, "sliding_window", None)


def top(scores: list[float], count: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count])


def top_of_tiles(scores: list[float], tiles: list[int], quotas: list[int]) -> set[int]:
    kept = {index for index, tile in enumerate(tiles) if tile < 0}
    for tile, quota in enumerate(quotas):
        members = [index for index, other in enumerate(tiles) if other == tile]
        kept |= {members[index] for index in top([scores[member] for member in members], quota)}
    return kept


def keep_only(sequence: Sequence, kept: set[int], merged: list[torch.Tensor], *, renumber: bool) -> Sequence:
    """Kept vision tokens (by number among them), all text, and merged tokens behind the last vision token."""
    vision = [index for index, is_vision in enumerate(sequence.vision) if is_vision]
    gone = {index for number, index in enumerate(vision) if number not in kept}
    rows, positions, flags, tiles, prompt = [], [], [], [], 0
    for index in range(len(sequence.hidden)):
        if index not in gone:
            rows.append(sequence.hidden[index])
            positions.append(sequence.positions[index])
            flags.append(sequence.vision[index])
            tiles.append(sequence.tiles[index])
            prompt += index < sequence.prompt
        if vision and index == vision[-1]:
            rows += merged
            positions += [-1] * len(merged)
            flags += [True] * len(merged)
            tiles += [-1] * len(merged)
            prompt += len(merged)
    if renumber:
        positions = list(range(len(rows)))
    return Sequence(torch.stack(rows), positions, flags, tiles, prompt)


def fastv_stage(
    sequence: Sequence, attention: np.ndarray, *, ratio: float | None, quotas: list[int] | None
) -> Sequence:
    columns = [index for index, is_vision in enumerate(sequence.vision) if is_vision]
    scores = [attention[sequence.prompt - 1, column] for column in columns]
    if quotas is not None:
        kept = top_of_tiles(scores, [sequence.tiles[column] for column in columns], quotas)
    else:
        kept = top(scores, int(len(columns) * ratio))
    return keep_only(sequence, kept, [], renumber=False)


def pyramid_stage(sequence: Sequence, attention: np.ndarray, *, count: int) -> Sequence:
    columns = [index for index, is_vision in enumerate(sequence.vision) if is_vision]
    return keep_only(
        sequence, top([attention[sequence.prompt - 1, column] for column in columns], count), [], renumber=True
    )


def text_raters(embeddings: np.ndarray, vision: list[bool]) -> list[int]:
    """Rows of the prompt that rate, by the input embeddings."""
    columns = [index for index, is_vision in enumerate(vision) if is_vision]
    texts = range(columns[-1] + 1, len(vision))
    weight = dict.fromkeys(texts, 0.0)
    for column in columns:
        products = {text: float(embeddings[column] @ embeddings[text]) for text in texts}
        total = sum(math.exp(value - max(products.values())) for value in products.values())
        for text in texts:
            weight[text] += math.exp(products[text] - max(products.values())) / total / len(columns)
    mean = sum(weight.values()) / len(weight)
    return [text for text in texts if weight[text] > mean] or [len(vision) - 1]


def sparse_stage(
    sequence: Sequence,
    attention: np.ndarray,
    raters_from_end: list[int],
    *,
    count: int | None,
    scale: float,
    bias: float,
    recycled: float = 0.3,
    quotas: list[int] | None = None,
) -> Sequence:
    columns = [index for index, is_vision in enumerate(sequence.vision) if is_vision]
    rows = np.array([[attention[sequence.prompt + row, column] for column in columns] for row in raters_from_end])
    scores = rows.mean(0).tolist()
    if quotas is not None:
        kept = top_of_tiles(scores, [sequence.tiles[column] for column in columns], quotas)
    else:
        if count is None:
            rank = int(np.linalg.matrix_rank(rows.astype(np.float32)))
            count = len(columns) if rank == len(columns) else min(int(rank * scale + bias), len(columns) - 1)
        kept = top(scores, count)
    if len(kept) == len(columns):
        return sequence
    pruned = [number for number in range(len(columns)) if number not in kept]
    merged = []
    if recycled:
        order = sorted(pruned, key=lambda number: (-scores[number], number))
        chosen = [columns[number] for number in order[: int(recycled * len(pruned)) + 1]]
        merged = merge_loop(sequence.hidden[chosen], len(chosen) // 10 + 1)
    return keep_only(sequence, kept, merged, renumber=True)


def merge_loop(tokens: torch.Tensor, clusters: int) -> list[torch.Tensor]:
    """The clusters' means, by density peaks."""
    count = len(tokens)
    rows = tokens.double().numpy()
    dist = np.array([[np.linalg.norm(a - b) / math.sqrt(rows.shape[1]) for b in rows] for a in rows])
    density = []
    for index in range(count):
        nearest = sorted(dist[index])[:clusters]
        tie = 1e-6 * (1 - index / (count - 1)) if count > 1 else 1e-6
        density.append(math.exp(-sum(value**2 for value in nearest) / clusters) + tie)
    peak = []
    for index in range(count):
        denser = [dist[index][other] for other in range(count) if density[other] > density[index]]
        peak.append(density[index] * (min(denser) if denser else dist.max()))
    centres = sorted(range(count), key=lambda index: (-peak[index], index))[:clusters]
    members: list[list[int]] = [[] for _ in centres]
    for index in range(count):
        own = centres.index(index) if index in centres else int(np.argmin([dist[index][c] for c in centres]))
        members[own].append(index)
    return [(tokens[own].sum(0) / (len(own) + 1e-6)).to(tokens.dtype) for own in members]


Stage = Callable[[Sequence, np.ndarray], Sequence]


def reference_logits(
    model: PreTrainedModel,
    embeddings: torch.Tensor,
    prompt: PromptLayout,
    generated: list[int],
    after: dict[int, Stage],
    *,
    by_next: bool,
) -> tuple[torch.Tensor, list[int]]:
    """Logits after prompt and generated tokens, and prompt tokens by layer, with nothing cached.

    `after` has the stage that follows this many layers; `by_next` lets the coming layer's attention decide.
    """
    positions, tail = prompt.positions.tolist(), len(generated)
    tokens = torch.cat([embeddings, model.model.embed_tokens(torch.tensor(generated, dtype=torch.long))])
    sequence = Sequence(
        tokens,
        positions + [positions[-1] + 1 + index for index in range(tail)],
        prompt.vision.tolist() + [False] * tail,
        prompt.tiles.tolist() + [-1] * tail,
        len(positions),
    )
    lengths, attention = [], np.zeros((0, 0))
    for index in range(len(model.model.layers)):
        if index in after:
            if by_next:
                attention, _ = attention_and_output(model, index, sequence)
            sequence = after[index](sequence, attention)
        lengths.append(sequence.prompt)
        attention, sequence.hidden = attention_and_output(model, index, sequence)
    return model.lm_head(model.model.norm(sequence.hidden[-1])), lengths
