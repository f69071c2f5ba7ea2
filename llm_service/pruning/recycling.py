"""SparseVLM's recycling: the best of the dropped tokens come back as the means of a few clusters."""

import torch

_MERGE_EPSILON = 1e-6
_TIE_STEP = 1e-6  # the published jitter's size


def recycle(hidden: torch.Tensor, score: torch.Tensor, share: float) -> torch.Tensor:
    """Merge the best of the dropped tokens into clusters.

    Args:
        hidden: [p, Dl] dropped tokens, at least one.
        score: [p] their scores.
        share: the share to recycle, 0.3 as published: int(share * p) + 1 tokens, in int(that / 10) + 1 clusters.

    Returns:
        [clusters, Dl] in the input's type.
    """
    count = min(int(share * len(hidden)) + 1, len(hidden))
    clusters = count // 10 + 1
    recycled = hidden[torch.argsort(score, descending=True, stable=True)[:count]]  # [count, Dl], best first
    assigned = assign_clusters(recycled.float(), clusters)  # [count]
    sums = torch.zeros(clusters, hidden.shape[1], device=hidden.device)
    sums.index_add_(0, assigned, recycled.float())
    members = torch.bincount(assigned, minlength=clusters)[:, None]  # [clusters, 1]
    return (sums / (members + _MERGE_EPSILON)).to(hidden.dtype)


def assign_clusters(tokens: torch.Tensor, clusters: int) -> torch.Tensor:
    """Density-peak clustering, as published except for its jitter.

    dist = L2 / sqrt(Dl). A token's density is exp(-mean of its `clusters` smallest squared distances, its own zero
    included); delta is its distance to the nearest denser token, and for the densest token the greatest distance of
    all. The centres are the tokens of the highest density * delta. Each token belongs to its nearest centre, and a
    centre to itself.

    The published code adds U(0, 1) * 1e-6 to the densities to break ties. Here 1e-6 times a number that falls evenly
    from 1 to 0 along the tokens is added, so that a request always gives the same answer; of equals the first is
    densest.

    Args:
        tokens: [n, Dl] float32.
        clusters: from 1 to n.

    Returns:
        [n] int64 cluster of each token; the clusters are ordered by descending density * delta of their centres.
    """
    # The default computes distances by a matrix product, whose rounding errors would separate equal tokens.
    exact = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist")
    dist = exact / tokens.shape[1] ** 0.5  # [n, n]
    nearest = dist.topk(clusters, dim=1, largest=False).values  # [n, clusters]
    density = torch.exp(-nearest.square().mean(1))  # [n]
    density = density + torch.linspace(_TIE_STEP, 0, len(tokens), device=tokens.device)
    denser = density[None, :] > density[:, None]  # [n, n]: column is denser than row
    delta = torch.where(denser, dist, dist.max()).amin(1)  # [n]
    centres = torch.argsort(density * delta, descending=True, stable=True)[:clusters]
    assigned: torch.Tensor = dist[:, centres].argmin(1)  # [n]
    assigned[centres] = torch.arange(clusters, device=tokens.device)
    return assigned
