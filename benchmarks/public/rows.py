"""The rows and columns of the table: the requests for each row, and where lmms-eval stores the score.

The rows are those of GlobalCom2's poster (AAAI 2026), and one for every other method of the encoder at each ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.options.compression import KEEP_ALL

from benchmarks.public.settings import Settings
from encoder_service.compression import listed_methods


@dataclass(frozen=True)
class Benchmark:
    """One column of the table."""

    name: str
    task: str  # in lmms-eval
    metrics: tuple[str, ...]  # its metrics, summed
    scale: float = 100.0  # lmms-eval reports most metrics as a share


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str  # also the name of its folder
    label: str
    retention: str  # the share of the tokens
    arguments: Mapping[str, Any]  # fields of `Settings`

    def settings(self, others: Settings) -> Settings:
        return replace(others, **self.arguments)


MME_PERCEPTION, MME_COGNITION = "mme_perception_score", "mme_cognition_score"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("GQA", "gqa", ("exact_match",)),
    Benchmark("VizWiz", "vizwiz_vqa_val", ("exact_match",)),
    Benchmark("SQA", "scienceqa_img", ("exact_match",)),
    # The task's other form uses a judge behind an API for every answer that is not a letter.
    Benchmark("MMB", "mmbench_en_dev_static", ("gpt_eval_score",), 1.0),
    Benchmark("POPE", "pope", ("pope_f1_score",)),
    Benchmark("VQA-T", "textvqa_val", ("exact_match",)),
    Benchmark("MME", "mme", (MME_PERCEPTION, MME_COGNITION), 1.0),
    Benchmark("MM-Vet", "mmvet", ("gpt_eval_score",), 1.0),
)

UPPER_BOUND = "upper-bound"


def _encoder(method: str, percent: int, label: str) -> Row:
    return Row(f"{method}-{percent}", label, f"{percent}%", {"method": method, "retention_ratio": percent / 100})


def _llm(method: str, percent: int, label: str) -> Row:
    return Row(
        f"{method}-{percent}",
        label,
        f"{percent}%",
        {"method": "none", "pruning": method, "pruning_ratio": percent / 100},
    )


def _quotas(method: str, percent: int, label: str) -> Row:
    """GlobalCom2 decides how many tokens of each tile are kept; the method inside the language model decides which."""
    encoder = {"method": "globalcom2", "retention_ratio": percent / 100, "quotas_only": True}
    return Row(f"globalcom2-quotas-{method}-{percent}", label, f"{percent}%", {**encoder, "pruning": method})


def _cascade(method: str, percent: int, label: str) -> Row:
    """GlobalCom2 keeps twice the target; the method inside the language model halves the number."""
    encoder = {"method": "globalcom2", "retention_ratio": 2 * percent / 100}
    pruning = {"pruning": method, "pruning_ratio": 0.5}
    return Row(f"globalcom2-cascade-{method}-{percent}", label, f"{percent}%", {**encoder, **pruning})


POSTER_ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row(UPPER_BOUND, "LLaVA-NeXT, all tokens", "100%", {"method": "none"}),
        _encoder("globalcom2", 75, "GlobalCom2"),
        _encoder("globalcom2", 50, "GlobalCom2"),
        _encoder("globalcom2", 25, "GlobalCom2"),
        _llm("fastv", 10, "FastV"),
        _llm("sparsevlm", 10, "SparseVLM"),
        _encoder("fastervlm", 10, "FasterVLM"),
        _encoder("prumerge", 10, "PruMerge"),
        _llm("pyramiddrop", 10, "PyramidDrop"),
        _encoder("globalcom2", 10, "GlobalCom2"),
        _quotas("fastv", 10, "FastV + GlobalCom2 (counts per tile)"),
        _quotas("sparsevlm", 10, "SparseVLM + GlobalCom2 (counts per tile)"),
        _cascade("fastv", 10, "GlobalCom2 at 20%, then FastV at 50%"),
        _cascade("sparsevlm", 10, "GlobalCom2 at 20%, then SparseVLM at 50%"),
    )
}

_FURTHER = (
    _encoder(method, percent, method)
    for percent in (50, 25, 10)
    for method in listed_methods(VisionTower.outputs)  # a method that reads the question needs another encoder
    if method != KEEP_ALL
)
ROWS: Mapping[str, Row] = {**POSTER_ROWS, **{row.name: row for row in _FURTHER if row.name not in POSTER_ROWS}}
