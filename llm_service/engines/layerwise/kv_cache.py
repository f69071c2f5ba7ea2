"""Keys and values of one request, as many in each layer as that layer has tokens."""

from collections.abc import Sequence

import torch

_BLOCK = 64  # tokens by which a layer grows: a copy every so many steps instead of one at each


class KvCache:
    """What the library's attention layers ask of a cache: `update`. Batch size 1."""

    def __init__(self, windows: Sequence[int | None]) -> None:
        """`windows` has an entry for each layer: how many tokens its sliding window has, or None where it has none."""
        num_layers = len(windows)
        self._windows = tuple(windows)
        self._keys: list[torch.Tensor | None] = [None] * num_layers  # each [1, kv heads, capacity, head size]
        self._values: list[torch.Tensor | None] = [None] * num_layers
        self._lengths = [0] * num_layers

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each layer."""
        return tuple(self._lengths)

    def keys(self, layer: int) -> torch.Tensor:
        """A layer's keys, [kv heads, tokens, head size], rotated to their places."""
        found = self._keys[layer]
        if found is None:
            raise ValueError(f"layer {layer} has not run")
        return found[0, :, : self._lengths[layer]]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [1, kv heads, new, head size] to a layer.

        Returns:
            Its keys and values: all of them, or for a single new token those in the layer's sliding window. What a
            whole prompt sees under a sliding window is for a mask to say.
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
