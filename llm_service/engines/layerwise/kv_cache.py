"""A KV cache for one request in which layers may hold different numbers of tokens."""

from collections.abc import Sequence

import torch

_BLOCK = 64  # tokens by which a layer's storage grows, so that it is copied once in 64 steps instead of at each


class KvCache:
    """Offers the part of the library's cache interface that attention layers use: `update`. Batch size 1."""

    def __init__(self, windows: Sequence[int | None]) -> None:
        """`windows` holds the sliding window of each layer in tokens, or None for a layer without one."""
        num_layers = len(windows)
        self._windows = tuple(windows)
        self._keys: list[torch.Tensor | None] = [None] * num_layers  # each [1, kv heads, capacity, head size]
        self._values: list[torch.Tensor | None] = [None] * num_layers
        self._lengths = [0] * num_layers

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens in each layer."""
        return tuple(self._lengths)

    def keys(self, layer: int) -> torch.Tensor:
        """A layer's keys, [kv heads, tokens, head size], with the rotation for their positions applied."""
        found = self._keys[layer]
        if found is None:
            raise ValueError(f"layer {layer} has not run")
        return found[0, :, : self._lengths[layer]]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [1, kv heads, new, head size] to a layer.

        Returns:
            The layer's keys and values: all of them, or for a single new token those in the layer's sliding window. For
            a whole prompt a mask has to apply the window.
        """
        new, start = keys.shape[2], self._lengths[layer_idx]
        end = self._lengths[layer_idx] = start + new
        window = self._windows[layer_idx]
        first = max(end - window, 0) if window is not None and new == 1 else 0
        return (
            _append(self._keys, layer_idx, keys, start, end)[:, :, first:],
            _append(self._values, layer_idx, values, start, end)[:, :, first:],
        )


def _append(stores: list[torch.Tensor | None], layer: int, new: torch.Tensor, start: int, end: int) -> torch.Tensor:
    store = stores[layer]
    if store is None or store.shape[2] < end:
        batch, heads, _, size = new.shape
        grown = new.new_empty(batch, heads, end + _BLOCK, size)
        if store is not None:
            grown[:, :, :start] = store[:, :, :start]
        store = stores[layer] = grown
    store[:, :, start:end] = new
    return store[:, :, :end]
