"""What `visionsplit top` prints: plain lines."""

from collections.abc import Mapping
from typing import Any

from visionsplit.visible import counted

from visionsplit_cli import report

View = Mapping[str, Any]


def screen(views: Mapping[str, View], failures: Mapping[str, str]) -> str:
    """One page for the services that answer, and a line for each that does not."""
    lines: list[str] = []
    if (encoder := views.get("encoder")) is not None:
        lines += [*_common("encoder", encoder), *_encoder(encoder), ""]
    if (llm := views.get("llm")) is not None:
        lines += [*_common("LLM", llm), *_llm(llm), ""]
    lines += failures.values()
    return "\n".join(lines).rstrip()


def _common(title: str, view: View) -> list[str]:
    failed = {code: count for code, count in sorted(view["requests_by_code"].items()) if code != "OK" and count}
    codes = ", ".join(f"{code} {count:.0f}" for code, count in failed.items())
    saving = "-" if view["saving"] is None else f"{100 * view['saving']:.0f}% less"
    hits = "" if view["cache_hit_ratio"] is None else f", cache hits {100 * view['cache_hit_ratio']:.0f}%"
    return [
        f"{title} service, over {view['seconds']:.0f} s",
        f"  requests   {view['requests_per_second']:8.2f}/s  {view['in_flight']:.0f} running, {view['errors']:.0f} "
        f"failed" + (f" ({codes})" if view["errors"] else ""),
        f"  images     {view['images_per_second']:8.2f}/s  vision tokens {view['tokens_before']:.0f} -> "
        f"{view['tokens_after']:.0f} ({saving}), {report.size(view['wire_bytes_per_second'])}/s{hits}",
        f"  queue      {_quantiles(view['queue_seconds'])}",
    ]


def _encoder(view: View) -> list[str]:
    mean = "-" if view["tiles_per_pass"] is None else f"{view['tiles_per_pass']:.1f}"
    return [
        f"  encode     {_quantiles(view['encode_seconds'])}  {mean} tiles a pass, {view['queued_tiles']:.0f} waiting",
        f"  1st chunk  {_quantiles(view['first_chunk_seconds'])}",
    ]


def _llm(view: View) -> list[str]:
    taken = "-" if view["kv_used_ratio"] is None else f"{100 * view['kv_used_ratio']:.0f}%"
    replicas = counted(round(view["replicas"]), "replica")
    return [
        f"  TTFT       {_quantiles(view['time_to_first_token_seconds'])}",
        f"  ITL        {_quantiles(view['inter_token_seconds'])}",
        f"  generated  {view['generated_tokens_per_second']:8.1f} tokens/s  {replicas}, fullest KV cache {taken}",
    ]


def _quantiles(pair: Mapping[str, float | None]) -> str:
    return f"p50 {_seconds(pair['p50']):>9}  p99 {_seconds(pair['p99']):>9}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"
