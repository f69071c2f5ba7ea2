"""Measures times on the device's timeline without synchronising with it."""

import time

import torch


class Clock:
    """Marks by name; marking a name again moves its mark."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moments: dict[str, float] = {}
        self._events: dict[str, torch.cuda.Event] = {}

    def mark(self, name: str) -> None:
        """Record when the device gets here: on a GPU, after the work submitted so far."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events[name] = event
        else:
            self._moments[name] = time.perf_counter()

    def seconds(self, first: str, last: str) -> float:
        """Seconds between two marks; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return float(self._events[first].elapsed_time(self._events[last])) / 1e3
        return self._moments[last] - self._moments[first]
