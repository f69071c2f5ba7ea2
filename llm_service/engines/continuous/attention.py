"""Attention for continuous batching on a CPU, computed request by request.

Without flash attention, the library multiplies the queries of a step with the keys of all its requests, under a mask
that hides each request's keys from the others. A CPU skips none of the hidden products: with a dozen requests in a step
most of the work is wasted, as is the copy of all their keys. Here each request's queries meet only its own keys, copied
separately, which then fit the processor's caches. A prompt that is prefilled in one step needs neither copy nor mask,
which also saves the half of the products that lies in the future.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

LIBRARY_ATTENTION = "sdpa"  # the implementation that must be set while a manager is created
BY_REQUEST_ATTENTION = "sdpa_by_request"


def attend_by_request(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cache: PagedAttentionCache | None = None,
    **kwargs: Any,  # noqa: ANN401 - the library passes many, of which few matter here
) -> tuple[torch.Tensor, None]:
    """An attention function with the library's signature; without a paged cache it calls the library's own.

    Args:
        query: [1, H, n, d], the tokens of the step's requests one after another.
        key, value: [1, G, n, d], for the same tokens; those of older tokens are in the cache.
        attention_mask: [1, 1, n, m], added to the scores, over the keys of all requests.
        kwargs: `cu_seq_lens_q` and `cu_seq_lens_k`, the offsets of each request in n and in m; `read_index` [m] and
            `write_index` [n], slots of the cache.

    Returns:
        [1, n, H, d].
    """
    allocator = cache.layer_to_allocator[module.layer_idx] if isinstance(cache, PagedAttentionCache) else None
    if allocator is None or allocator.layer_type != FULL_ATTENTION or attention_mask is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, cache=cache, **kwargs
        )
        return output, None
    keys, values = allocator._kv_token_views[module.layer_idx]  # [slots, G, d] each
    keys.index_copy_(0, kwargs["write_index"][allocator.index], key[0].transpose(0, 1))
    values.index_copy_(0, kwargs["write_index"][allocator.index], value[0].transpose(0, 1))
    slots = kwargs["read_index"][allocator.index]  # [m]; empty if every prompt is prefilled in one step
    groups = query.shape[1] // key.shape[1]
    query_ends, key_ends = kwargs["cu_seq_lens_q"].tolist(), kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
    output = torch.empty_like(query.transpose(1, 2))  # [1, n, H, d]
    for start, stop, first, last in zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False):
        whole = stop - start == last - first
        if whole:
            own_keys, own_values = key[:, :, start:stop], value[:, :, start:stop]
        else:
            own_keys = keys.index_select(0, slots[first:last]).transpose(0, 1)[None]  # [1, G, last - first, d]
            own_values = values.index_select(0, slots[first:last]).transpose(0, 1)[None]
        output[:, start:stop] = scaled_dot_product_attention(
            query[:, :, start:stop],
            repeat_kv(own_keys, groups),
            repeat_kv(own_values, groups),
            attn_mask=None if whole or stop - start == 1 else attention_mask[..., start:stop, first:last],
            is_causal=whole,
            scale=scaling,
        ).transpose(1, 2)
    return output, None


ALL_ATTENTION_FUNCTIONS.register(BY_REQUEST_ATTENTION, attend_by_request)
