"""Muon for the matrices inside the transformers, AdamW for everything else."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates; Muon's use AdamW's scale, since its updates are given the same root mean square."""

    vision: float = 2e-3
    text: float = 2e-3
    other: float = 1e-3
    warmup: float = 0.02  # share of the stage

    def scaled(self, factor: float) -> "LearningRates":
        """Multiply all peaks by a factor."""
        return replace(self, vision=self.vision * factor, text=self.text * factor, other=self.other * factor)


class Optimizers:
    """Both optimizers, used like one."""

    def __init__(self, modules: dict[str, nn.Module], rates: LearningRates) -> None:
        """`modules` by the name of their rate: "vision", "text", or "other" for parameters that Muon does not suit."""
        matrices: dict[str, list[nn.Parameter]] = {"vision": [], "text": []}
        rest: list[nn.Parameter] = []
        for name, module in modules.items():
            for path, parameter in module.named_parameters():
                inner = name != "other" and parameter.ndim == 2 and ".layers." in f".{path}"
                (matrices[name] if inner else rest).append(parameter)
        self._rates = rates
        self.muon = torch.optim.Muon(
            [
                {"params": matrices["vision"], "peak": rates.vision},
                {"params": matrices["text"], "peak": rates.text},
            ],
            weight_decay=0.02,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = torch.optim.AdamW(
            [{"params": rest, "peak": rates.other}],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=rest[0].is_cuda,
        )
        self._parameters = [*matrices["vision"], *matrices["text"], *rest]

    def step(self, progress: float) -> None:
        """Take one step at `progress` (0 to 1) through the stage: warm-up, then a cosine to zero."""
        share = min(progress / self._rates.warmup, 1.0) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        optimizers: tuple[torch.optim.Optimizer, ...] = (self.muon, self.adamw)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
