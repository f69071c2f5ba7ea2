"""Draws the page: the text of page.md with the tables and facts of a run, and its plots."""

from pathlib import Path
from string import Template

from benchmarks.peers import plots, tables
from benchmarks.peers.plan import HEADLINE_CALLERS, PROPORTIONED, SHIPPED
from benchmarks.peers.results import Saved

_PAGE = Path(__file__).with_name("page.md")
_TARGET = 5.0  # times vLLM's medians with one caller
_UNMEASURED = "Not measured in this run.\n"
_QUICK = "**This is a quick try with a tiny model. Its figures mean nothing.**\n"


def draw(saved: Saved, folder: Path) -> Path:
    """Write peers.md and its plots into a folder; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "peers.md"
    page.write_text(text(saved))
    if any(one.part.model == PROPORTIONED for one in saved.results):
        plots.draw_latency(saved, folder / "peers-latency.png")
    if any(one.part.model == SHIPPED for one in saved.results):
        plots.draw_accuracy(saved, folder / "peers-accuracy.png")
    return page


def text(saved: Saved) -> str:
    """The page."""
    closed = tables.closed_loads(saved)
    others = [callers for callers in closed if callers != HEADLINE_CALLERS]
    target = tables.target_of(saved, _TARGET)
    goodput = "" if target is None or not tables.open_loads(saved) else tables.overload_table(saved, target)
    facts = saved.facts
    return Template(_PAGE.read_text()).substitute(
        quick=_QUICK if facts["quick"] else "",
        machine=facts["machine"],
        command=facts["command"],
        versions=_versions(saved),
        allocator=facts["allocator"],
        new_tokens=facts["max_new_tokens"],
        headline_callers=HEADLINE_CALLERS,
        headline=tables.throughput_table(saved, HEADLINE_CALLERS) if HEADLINE_CALLERS in closed else _UNMEASURED,
        others="\n".join(_section(saved, callers) for callers in others) or _UNMEASURED,
        costs=tables.cost_table(saved) if HEADLINE_CALLERS in closed else _UNMEASURED,
        fairness=tables.fairness_table(saved) if HEADLINE_CALLERS in closed else _UNMEASURED,
        target="" if target is None else f"{target.first:.1f} s and {target.whole:.1f} s",
        overload=goodput or _UNMEASURED,
        accuracy=tables.accuracy_table(saved) if _has_shipped(saved) else _UNMEASURED,
        shortfalls=_list(saved),
    )


def _section(saved: Saved, callers: int) -> str:
    noun = "caller" if callers == 1 else "callers"
    return f"### {callers} {noun}\n\n{tables.throughput_table(saved, callers)}"


def _versions(saved: Saved) -> str:
    facts = saved.facts
    own = f"visionsplit {facts['visionsplit']} with torch {facts['torch']} and transformers {facts['transformers']}"
    return f"{own}; {facts['vllm']}" if "vllm" in facts else own


def _has_shipped(saved: Saved) -> bool:
    return any(one.part.model == SHIPPED for one in saved.results)


def _list(saved: Saved) -> str:
    found = list(tables.shortfalls(saved))
    return "".join(f"- {sentence}\n" for sentence in found) or "In no figure of this run is visionsplit behind vLLM.\n"
