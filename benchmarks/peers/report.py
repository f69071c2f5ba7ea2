"""Draws the page: the text of page.md with the tables and facts of a run, and its plots."""

from pathlib import Path
from string import Template

from benchmarks.peers import plots, tables
from benchmarks.peers.plan import HEADLINE_CALLERS, PROPORTIONED, SHIPPED, VLLM
from benchmarks.peers.results import Saved, Target
from benchmarks.peers.rows import closed_loads, open_loads, others_share, target_of

_PAGE = Path(__file__).with_name("page.md")
_TARGET = 5.0  # times vLLM's medians with one caller
_UNMEASURED = "Not measured in this run.\n"
_NO_TORCHVISION = """\
- torchvision does not load beside this machine's PyTorch, so vLLM prepares images with Pillow, as all others do.
"""
_NOTHING = "**Nothing has been measured yet. The text says what will be.**\n\n"
_LATENCY_PLOT = "![Throughput and time to first token](peers-latency.png)\n"
_ACCURACY_PLOT = "![Right answers and throughput](peers-accuracy.png)\n"
_QUICK = "**This is a quick try with a tiny model. Its figures mean nothing.**\n\n"


def draw(saved: Saved, folder: Path) -> Path:
    """Write peers.md and its plots into a folder; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "peers.md"
    page.write_text(text(saved))
    if _has(saved, PROPORTIONED):
        plots.draw_latency(saved, folder / "peers-latency.png")
    if _has(saved, SHIPPED):
        plots.draw_accuracy(saved, folder / "peers-accuracy.png")
    return page


def text(saved: Saved) -> str:
    """The page."""
    facts, closed = saved.facts, closed_loads(saved)
    measured = HEADLINE_CALLERS in closed
    target = target_of(saved, _TARGET)
    return Template(_PAGE.read_text()).substitute(
        notice=_NOTHING if not saved.results else _QUICK if facts["quick"] else "",
        machine=facts["machine"],
        command=facts["command"],
        visionsplit="visionsplit {visionsplit} with torch {torch} and transformers {transformers}".format(**facts),
        vllm=f"- vLLM: {facts['vllm']}.\n" if "vllm" in facts else "",
        allocator=facts["allocator"],
        others_share=_others_share(saved),
        new_tokens=facts["max_new_tokens"],
        repetitions=facts["repetitions"],
        headline_callers=HEADLINE_CALLERS,
        headline=tables.throughput_table(saved, HEADLINE_CALLERS) if measured else _UNMEASURED,
        others="\n".join(_section(saved, callers) for callers in closed if callers != HEADLINE_CALLERS) or _UNMEASURED,
        costs=tables.cost_table(saved) if measured else _UNMEASURED,
        fairness=tables.fairness_table(saved) if measured else _UNMEASURED,
        overload=_overload(saved, *target) if target is not None and open_loads(saved) else _UNMEASURED,
        latency_plot=_LATENCY_PLOT if _has(saved, PROPORTIONED) else "",
        accuracy_plot=_ACCURACY_PLOT if _has(saved, SHIPPED) else "",
        accuracy=tables.accuracy_table(saved) if _has(saved, SHIPPED) else _UNMEASURED,
        torchvision="" if facts.get("torchvision", True) else _NO_TORCHVISION,
        behind=_behind(saved),
    )


def _others_share(saved: Saved) -> str:
    share = others_share(saved)
    return (
        ""
        if share is None
        else f"- Other programs took at most {share:.0%} of one core while something was measured.\n"
    )


def _section(saved: Saved, callers: int) -> str:
    noun = "caller" if callers == 1 else "callers"
    title = f"### {callers} {noun}\n\n{tables.throughput_table(saved, callers)}"
    loop = tables.of_the_loop(saved, callers) if callers == 1 else ""
    return f"{title}\nMedian time to first token, uncompressed, of the `generate` loop's:\n\n{loop}" if loop else title


def _overload(saved: Saved, target: Target, base: str) -> str:
    return (
        f"Goodput counts the answers whose first token came within {target.first:.1f} s and whose end came within "
        f"{target.whole:.1f} s.\nThese are {_TARGET:g} times the medians of {base}, with one caller.\n\n"
        f"{tables.overload_table(saved, target)}"
    )


def _behind(saved: Saved) -> str:
    failed = "".join(f"- {sentence}\n" for sentence in tables.failures(saved))
    if all(one.part.contestant != VLLM for one in saved.results):
        return f"vLLM was not measured in this run.\n\n{failed}"
    table = tables.behind_table(saved) or "In no row of this run is visionsplit behind vLLM.\n"
    return "\n".join((table, failed or "No request failed.\n"))


def _has(saved: Saved, model: str) -> bool:
    return any(one.part.model == model for one in saved.results)
