"""The kernel for GPUs, run step by step on a CPU by Triton's interpreter."""

import json
import os
import subprocess
import sys

import pytest
import torch

from encoder_service.compression.selections.fused import agrees, fused_pick

CPU = torch.device("cpu")
# Triton decides when the kernel is defined whether to interpret it, so all of it runs in a separate process.
PROGRAM = """
import json, torch
from encoder_service.compression import SELECTIONS
from encoder_service.compression.candidates import Candidates
from encoder_service.compression.selections import determinantal
from encoder_service.compression.selections.fused import agrees
from encoder_service.compression.selections.volume_program import pick

generator = torch.Generator().manual_seed(1)
features = torch.randn(4, 40, 12, generator=generator) + torch.randn(12, generator=generator)
features[1, ::3] = features[1, 0]  # copies, which directions cannot tell apart
features[2, :5] = 0.0
worth = torch.randn(4, 40, generator=generator)
worth[2, 30:] = -torch.inf
candidates = Candidates(worth, (40, 40, 30, 40), None, features, {})
rows = []
for name in ("determinantal", "centred_determinantal"):
    selection, budgets = SELECTIONS[name], [8, 11, 9, 1]  # within the features' width: the rest is decided by rounding
    operations = selection.pick(candidates, budgets, {"worth_power": 0.5}).order.tolist()
    determinantal.fused_pick = lambda device: pick
    kernel = selection.pick(candidates, budgets, {"worth_power": 0.5}).order.tolist()
    determinantal.fused_pick = lambda device: None
    rows += [[a[:n], b[:n]] for a, b, n in zip(operations, kernel, budgets)]
trusted = [agrees(pick, torch.device("cpu"), dtype) for dtype in (torch.float16, torch.float32)]
print(json.dumps({"rows": rows, "agrees": trusted}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton exists for Linux only")
def test_the_kernel_picks_what_pytorchs_operations_pick():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["agrees"] == [True, True]  # not bfloat16, whose products the interpreter gets wrong
    for operations, kernel in found["rows"]:
        assert kernel == operations


def test_a_kernel_that_picks_other_cells_is_not_trusted():
    def last(features, worth, padding, budgets, nothing_left):
        return worth.argsort(dim=1)[:, : max(budgets)]

    assert not agrees(last, CPU, torch.float32)
    assert fused_pick(CPU) is None
