"""Measures how much of the shipped model's accuracy each compression keeps: the tables of GlobalCom2's poster.

    python -m benchmarks.accuracy [--images 300] [--tables main budgets ...] [--out FOLDER | --from FOLDER...]

All conditions answer the same held-out questions in one run (see `training.evaluation`), so that their differences are
paired. Every table counts the vision tokens that enter the language model, newlines included, and beside them those
that a layer has in its cache, mean over the layers: the two differ where the language model drops some itself.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionsplit.families.llava_next.vision_tower import VisionTower
from visionsplit.options.compression import KEEP_ALL

from benchmarks.shapes import SHIPPED
from encoder_service.compression import listed_methods
from training.evaluation.conditions import parse_condition
from training.evaluation.results import Run
from training.evaluation.run import evaluate, in_process_settings
from training.evaluation.summary import AVERAGE, METRICS, ConditionSummary, Difference, summarise
from training.evaluation.tables import facts, number, percent, table, tokens


@dataclass(frozen=True)
class Table:
    """Some conditions in one table."""

    title: str
    note: str
    conditions: tuple[str, ...]
    against: str  # the condition to which every row's difference is given


def _at(ratio: str, *methods: str) -> tuple[str, ...]:
    return tuple(f"{method}@{ratio}" for method in methods)


# PruMerge+ keeps more than twice its ratio, so that the tables list it at a smaller one.
_ENCODER_METHODS = tuple(name for name in listed_methods(VisionTower.outputs) if name not in (KEEP_ALL, "prumerge+"))
_PRUNING = ("none+pyramiddrop", "none+sparsevlm")


def _rows(ratio: str, *more: str) -> tuple[str, ...]:
    return "none", *_at(ratio, *_ENCODER_METHODS), *more


TABLES = {
    "main": (
        Table(
            "Half of the tokens",
            "PruMerge+ keeps about twice its ratio.",
            _rows("0.5", "prumerge+@0.25", "none+fastv:layer=1@0.4", *_at("0.5", *_PRUNING)),
            "globalcom2@0.5",
        ),
        Table(
            "A quarter of the tokens",
            "The language model's own pruning has the same mean over the layers; FastV drops after the first of six.",
            _rows("0.25", "prumerge+@0.12", "none+fastv:layer=1@0.1", *_at("0.25", *_PRUNING)),
            "globalcom2@0.25",
        ),
        Table(
            "A tenth of the tokens",
            "The language model has six layers and the first sees every token, so that pruning inside it cannot go "
            "below a sixth over the layers; it is given a fifth.",
            _rows("0.1", "prumerge+@0.05", "none+fastv:layer=1@0.04", *_at("0.2", *_PRUNING)),
            "globalcom2@0.1",
        ),
    ),
    "budgets": (
        Table(
            "How a tenth is shared out among the crops (GlobalCom2's first ablation)",
            "",
            (
                "none",
                "globalcom2@0.1",
                "globalcom2:budget=softmax_max@0.1",
                "globalcom2:budget=top_k_count@0.1",
                "globalcom2:budget=uniform@0.1",
            ),
            "globalcom2@0.1",
        ),
    ),
    "scores": (
        Table(
            "What says which tokens a crop keeps (the second ablation)",
            "",
            ("none", "globalcom2@0.1", "globalcom2:score=local@0.1", "globalcom2:score=global@0.1"),
            "globalcom2@0.1",
        ),
    ),
    "plug-in": (
        Table(
            "GlobalCom2 together with pruning in the language model",
            "quotas=only: the encoder sends every token, and the language model keeps of each tile as many as "
            "GlobalCom2 would, by its own score (only the ratios are GlobalCom2's). Otherwise a cascade: GlobalCom2 in "
            "the encoder, then the language model drops more.",
            (
                "none",
                "none+fastv:layer=1@0.1",
                "globalcom2:quotas=only@0.1+fastv:layer=1",
                "globalcom2@0.25+fastv:layer=1@0.4",
                "globalcom2@0.1",
                "none+sparsevlm@0.25",
                "none+sparsevlm@0.2",
                "globalcom2:quotas=only@0.1+sparsevlm",
                "globalcom2@0.25+sparsevlm@0.5",
                "globalcom2@0.25",
            ),
            "globalcom2@0.1",
        ),
    ),
    "positions": (
        Table(
            "Renumbered or original position ids; true positions or the published code's order",
            "",
            (
                "none",
                *(
                    condition
                    for ratio in ("0.5", "0.25", "0.1")
                    for condition in (
                        f"globalcom2@{ratio}",
                        f"globalcom2:positions=original@{ratio}",
                        f"globalcom2:layout=reference@{ratio}",
                    )
                ),
            ),
            "none",
        ),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; tables go to stdout, progress to stderr."""
    options = _parser().parse_args(arguments)
    chosen = [one for name in options.tables for one in TABLES[name]]
    if options.read:
        run = merged([Run.read(folder) for folder in options.read])
        present = set(run.conditions)
        chosen = [one for one in chosen if present.issuperset(one.conditions)]
    else:
        conditions = [parse_condition(text) for text in dict.fromkeys(c for one in chosen for c in one.conditions)]
        settings = in_process_settings(device=options.device, dtype=options.dtype, workers=options.workers)
        run = evaluate(str(options.model), conditions, settings, images=options.images, first=options.first)
        if options.out:
            run.write(options.out)
    text = render(run, chosen)
    if options.out:
        (options.out / "report.md").write_text(text)
    print(text, end="")
    return 0


def merged(runs: Sequence[Run]) -> Run:
    """Combine several runs under the same conditions on different images.

    Raises:
        ValueError: the conditions differ, or an image is in two of them.
    """
    first = runs[0]
    images = [{answer.image for answer in run.answers} for run in runs]
    if any(run.conditions != first.conditions for run in runs) or len(set().union(*images)) < sum(map(len, images)):
        raise ValueError("runs of the same conditions on different images are needed")
    return Run(first.facts, first.conditions, tuple(answer for run in runs for answer in run.answers))


def render(run: Run, chosen: Sequence[Table]) -> str:
    """Format the tables as Markdown."""
    summary = summarise(run, against=list(dict.fromkeys(one.against for one in chosen)))
    figures = {one.name: one for one in summary.conditions}
    differences = {(one.condition, one.against): one for one in summary.differences}
    parts = [facts(summary)]
    for one in chosen:
        rows = [_row(figures[name], figures["none"], differences.get((name, one.against))) for name in one.conditions]
        header = ["condition", "vision tokens", "per layer", "share, %", *METRICS, AVERAGE, "retained, %"]
        note = f"{one.note}\n\n" if one.note else ""
        parts.append(f"### {one.title}\n\n{note}{table([*header, f'average minus {one.against}'], rows)}")
    return "\n\n".join(parts) + "\n"


def _row(figures: ConditionSummary, whole: ConditionSummary, difference: Difference | None) -> list[str]:
    return [
        figures.name,
        tokens(figures.vision_tokens),
        tokens(figures.layer_tokens),
        number(100 * figures.layer_tokens / whole.layer_tokens),
        *(number(100 * figures.scores[metric].value) for metric in METRICS),
        percent(figures.scores[AVERAGE]),
        "–" if figures.retained is None else percent(figures.retained),
        "–" if difference is None else percent(difference.scores[AVERAGE], signed=True),
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What each way of compressing keeps of the model's accuracy.")
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--images", type=int, default=300, help="held-out images (default: %(default)s)")
    # After the images with which the parameter of globalcom2-diverse was chosen.
    parser.add_argument("--first", type=int, default=200, help="number of the first one (default: %(default)s)")
    parser.add_argument("--tables", nargs="+", choices=sorted(TABLES), default=list(TABLES), help="default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--workers", type=int, help="processes that draw images; 0 draws in this one")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FOLDER", help="keep answers and tables here")
    where.add_argument(
        "--from", dest="read", type=Path, nargs="+", metavar="FOLDER", help="only print earlier runs' tables, as one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
