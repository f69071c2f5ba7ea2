"""Attention for sequences in which many questions share one prefix of images.

The prefix is causal; a question's tokens see the prefix and what stands before them in the same question. An image is
so encoded once for all questions about it, without a mask as large as the whole sequence.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "shared_prefix"


def register() -> None:
    """Register the attention with the transformers library under NAME."""
    AttentionInterface.register(NAME, _attention)


def suffix_mask(prefix_lengths: torch.Tensor, prefix_room: int, question: torch.Tensor) -> torch.Tensor:
    """The positions of all L + S that a position of the suffix sees, [Q, 1, S, L + S].

    Args:
        prefix_lengths: [Q], the rest of the prefix is padding.
        prefix_room: L.
        question: [Q, S] the question that a place belongs to, -1 for padding.
    """
    places = torch.arange(prefix_room, device=question.device)
    length = question.shape[1]
    prefix = (places < prefix_lengths[:, None])[:, None].expand(-1, length, -1)  # [Q, S, L]
    same = question[:, :, None] == question[:, None]  # [Q, S, S]
    return torch.cat([prefix, same.tril()], 2)[:, None]


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # [Q, H, L + S, d]
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,  # [Q, 1, S, L + S]
    scaling: float,
    dropout: float = 0.0,
    **_: object,
) -> tuple[torch.Tensor, None]:
    prefix = query.shape[2] - attention_mask.shape[2]
    images = scaled_dot_product_attention(
        query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling
    )
    questions = scaled_dot_product_attention(query[:, :, prefix:], key, value, attn_mask=attention_mask, scale=scaling)
    return torch.cat([images, questions], 2).transpose(1, 2), None  # [Q, L + S, H, d]
