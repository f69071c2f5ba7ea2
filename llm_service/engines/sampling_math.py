"""The arithmetic of sampling that both engines share: filtered scores, and noise that depends on the seed alone.

A draw from a softmax is the arg max of the scores with Gumbel noise added (the Gumbel-max trick). The noise is a hash
of the request's seed, the token's position and its vocabulary index, so a seed gives the same text in either engine
and whatever else is in the batch.
"""

import torch

_MASK = 0xFFFFFFFF


def gumbel_noise(seed_low: torch.Tensor, seed_high: torch.Tensor, position: torch.Tensor, size: int) -> torch.Tensor:
    """Gumbel noise that depends only on its arguments.

    Args:
        seed_low, seed_high, position: [requests] integers, taken modulo 2**32.
        size: vocabulary size.

    Returns:
        [requests, size] float64.
    """
    row = _mix(_mix(_mix(seed_low.long() & _MASK) ^ (seed_high.long() & _MASK)) ^ (position.long() & _MASK))
    index = torch.arange(size, device=row.device, dtype=torch.int64)
    hashed = _mix(_mix(index + 0x9E3779B9)[None, :] ^ row[:, None])
    hashed = _mix(hashed + row[:, None])
    uniform = (hashed.double() + 0.5) / 2**32
    return -torch.log(-torch.log(uniform))


def filter_scores(
    scores: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """Temperature, then top-k, then top-p, with the meaning of Hugging Face's warpers.

    Args:
        scores: [requests, vocabulary] float32.
        temperature, top_p: [requests] float32, temperature positive.
        top_k: [requests], 0 keeps all.

    Returns:
        [requests, vocabulary], minus infinity where a token is excluded. Each row is shifted so that its maximum is 0,
        which changes no probability and lets the smallest temperature pass.
    """
    size = scores.shape[1]
    scores = (scores - scores.amax(1, keepdim=True)) / temperature[:, None]
    ascending, indices = torch.sort(scores, dim=1)
    keep = torch.where(top_k > 0, top_k.clamp(max=size), size).long()
    threshold = ascending.gather(1, (size - keep)[:, None])
    ascending = ascending.masked_fill(ascending < threshold, -torch.inf)
    cumulative = ascending.softmax(1).cumsum(1)
    excluded = (cumulative <= 1 - top_p[:, None]) & (top_p < 1)[:, None]
    excluded[:, -1] = False
    ascending = ascending.masked_fill(excluded, -torch.inf)
    return torch.empty_like(scores).scatter_(1, indices, ascending)


def _mix(value: torch.Tensor) -> torch.Tensor:
    """A 32-bit finaliser (avalanche) on int64 tensors. Products may overflow, as only their low halves are kept."""
    value = value & _MASK
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _MASK
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _MASK
    return value ^ (value >> 16)
