"""A plan for people, and for programs. Both keep what was measured apart from what was calculated."""

import itertools
import os
import platform
import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from visionsplit.options.conditions import compression_words
from visionsplit.visible import counted
from visionsplit_client import Compression

from visionsplit_cli import report
from visionsplit_cli.caption import DEFAULT_PROMPT
from visionsplit_cli.plan.groups import Prices, Rate, RatioPlan
from visionsplit_cli.plan.sweep import percent

_WIDTH = 110
_FEW_IMAGES = 20  # one more or less changes such a rate by 5% and more
_NOISE = 0.05  # by how much equal rates differ from one measurement to the next
_OTHER_WORK = 0.25  # of the cores
_BUSY_CLIENT = 0.8  # of a core: one Python process does not do much more


@dataclass(frozen=True)
class Setting:
    """What was measured, and with what."""

    model: str
    encoder_device: str  # as the service names it
    llm_device: str
    machine: str | None  # this one, where the services were started here, one after the other
    images: str
    prompt: str
    max_new_tokens: int | None  # None: the LLM service's default
    seconds: float  # for each rate
    compression: Compression = field(default_factory=Compression)  # below the ratio of 1, without its ratio
    load: float | None = None  # processes that kept this machine busy in the minute before; None where not looked at

    @property
    def on_cpu(self) -> bool:
        return "cpu" in (self.encoder_device, self.llm_device)


def machine() -> str:
    """This machine's processor, and how much of it a service takes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    return f"{next(named, None) or platform.processor() or platform.machine()}, {counted(_cores(), 'core')}{limit}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def document(setting: Setting, plans: Sequence[RatioPlan], prices: Prices | None) -> dict[str, Any]:
    """JSON values."""
    rows = [
        {
            "ratio": plan.ratio,
            "method": plan.method,
            "measured": {
                "vision_tokens": plan.vision_tokens,
                "prompt_tokens": plan.prompt_tokens,
                "generated_tokens": plan.generated_tokens,
                "encoder": _rate_document(plan.encoder),
                "llm": _rate_document(plan.llm),
            },
            "calculated": {
                "encoders_per_llm": plan.encoders_per_llm,
                "group": {
                    **asdict(plan.group),
                    "encoder_hours_per_million": plan.group.encoder_hours,
                    "llm_hours_per_million": plan.group.llm_hours,
                    "cost_per_million": None if prices is None else plan.group.cost(prices),
                },
                "one_device_images_per_second": plan.shared_rate,
            },
        }
        for plan in plans
    ]
    return {
        "setting": asdict(setting),
        "prices": None if prices is None else asdict(prices),
        "warning": unsure(plans),
        "ratios": rows,
    }


def text(setting: Setting, plans: Sequence[RatioPlan], prices: Prices | None) -> str:
    doubts = [warning] if (warning := unsure(plans)) is not None else []
    measured, calculated = _measured(plans), _calculated(plans, prices)
    parts = [_setting(setting), measured, calculated, *doubts, _advice(setting, plans, prices), _limits(setting, plans)]
    return "\n\n".join(parts)


def _rate_document(rate: Rate) -> dict[str, Any]:
    return {"images_per_second": rate.per_second, **asdict(rate)}


def _setting(setting: Setting) -> str:
    kinds = dict.fromkeys(device.partition(":")[0] for device in (setting.encoder_device, setting.llm_device))
    where = "running services" if setting.machine is None else f"each half alone on this machine ({setting.machine})"
    length = "" if setting.max_new_tokens is None else f", at most {setting.max_new_tokens} new tokens"
    return (
        f"{setting.model} on {' and '.join(kinds)}: {where}\n"
        f'{setting.images}, "{setting.prompt}"{length}, {setting.seconds:g} s for each rate'
    )


def _measured(plans: Sequence[RatioPlan]) -> str:
    header = ["kept", "tokens in", "tokens out", "encoder", "LLM"]
    rows = [
        [
            percent(plan.ratio),
            f"{plan.vision_tokens:.0f}",
            f"{plan.generated_tokens:.0f}",
            f"{_number(plan.encoder.per_second)}/s",
            f"{_number(plan.llm.per_second)}/s",
        ]
        for plan in plans
    ]
    legend = (
        "tokens in: vision tokens and newlines of an image that enter the language model. tokens out: of an answer. "
        "encoder, LLM: images a second of one encoder and of one language model, each with nothing else to do."
    )
    return f"Measured\n{report.table(header, rows)}\n{_wrapped(legend)}"


def _calculated(plans: Sequence[RatioPlan], prices: Prices | None) -> str:
    total = "device h" if prices is None else "cost"
    header = ["kept", "encoders per LLM", "group", "images/s", "encoder h", "LLM h", total, "one device"]
    rows = []
    for plan in plans:
        group = plan.group
        rows.append(
            [
                percent(plan.ratio),
                _number(plan.encoders_per_llm),
                f"{group.encoders} + {group.llms}",
                _number(group.images_per_second),
                _number(group.encoder_hours),
                _number(group.llm_hours),
                _number(group.encoder_hours + group.llm_hours if prices is None else group.cost(prices)),
                f"{_number(plan.shared_rate)}/s",
            ]
        )
    legend = (
        "encoders per LLM: that keep one language model busy. group: the fewest encoders + language models, each on a "
        f"separate device, of whose {'cost' if prices else 'time'} at most a tenth is wasted, and their images/s. "
        f"h: their hours for a million images{', and what these cost' if prices else ''}. one device: images/s where "
        "both halves take turns on one."
    )
    return f"Calculated from these rates\n{report.table(header, rows)}\n{_wrapped(legend)}"


def unsure(plans: Sequence[RatioPlan]) -> str | None:
    """A warning where a half was slower with fewer tokens: something else than their number decided its rate."""
    found = []
    for half, rates in (
        # Uncompressed requests choose no tokens, so that the encoder may rightly be faster with all of them.
        ("encoder", [(plan.ratio, plan.encoder.per_second) for plan in plans if plan.ratio < 1]),
        ("LLM", [(plan.ratio, plan.llm.per_second) for plan in plans]),
    ):
        falling = sorted(rates, reverse=True)
        found += [
            f"the {half} was slower with {percent(fewer)} of the tokens than with {percent(more)}"
            for (more, before), (fewer, after) in itertools.pairwise(falling)
            if after < before * (1 - _NOISE)
        ]
    if not found:
        return None
    return _wrapped(
        f"Warning: {', and '.join(found)}. Fewer tokens rarely cause that; other work on the machine or too short a "
        "measurement does. Measure again with a larger --seconds before you rely on the following advice."
    )


def _advice(setting: Setting, plans: Sequence[RatioPlan], prices: Prices | None) -> str:
    money = prices or Prices()
    best = min(plans, key=lambda plan: plan.group.cost(money))
    group = best.group
    encoders, llms = counted(group.encoders, "encoder"), counted(group.llms, "language model")
    lines = [f"Cheapest: keep {percent(best.ratio)}, with {encoders} for {llms}"]
    whole = max(plans, key=lambda plan: plan.ratio)
    if whole is not best:
        more = whole.group.cost(money) / group.cost(money)
        lines[0] += f"; with {percent(whole.ratio)} a million images cost {more:.1f} times as much"
    command = f"visionsplit batch caption INPUT -o OUTPUT {_work_options(setting, best)}"
    if not setting.on_cpu:  # there each of Ray's actors gets one core, which is not what was measured
        lines.append(
            f"  {command} --model MODEL \\\n"
            f"    --encoders {group.encoders} --encoder-gpus 1 --llms {group.llms} --llm-gpus 1"
        )
    encoder, llm = best.encoder, best.llm
    in_flight = group.encoders * encoder.in_flight / encoder.services + group.llms * llm.in_flight / llm.services
    several = " --encoder HOST:PORT" + (" ..." if group.encoders > 1 else "")
    lines.append(
        f"  {command} \\\n"
        f"    --in-flight {in_flight:.0f}{several}\n"
        "    where each encoder service was started with the LLM services' addresses as --llm"
    )
    return "\n".join(lines)


def _work_options(setting: Setting, plan: RatioPlan) -> str:
    """Of a job that does what was measured."""
    words = ["--method", plan.method]
    if plan.method != "none":
        words += ["--ratio", f"{plan.ratio:g}"]
        for name, value in compression_words(setting.compression).items():
            words += [f"--{name}", value]
    if setting.prompt != DEFAULT_PROMPT:
        words += ["--prompt", setting.prompt]
    if setting.max_new_tokens is not None:
        words += ["--max-new-tokens", str(setting.max_new_tokens)]
    return shlex.join(words)


def _limits(setting: Setting, plans: Sequence[RatioPlan]) -> str:
    lines = [
        "Not measured: whether the answers are still good with fewer tokens; reading the input; the network between "
        "machines; and whether a group is as fast as its members alone."
    ]
    if setting.on_cpu:
        lines.append(
            "A device is a whole machine here: each half had it to itself. On one machine both share the cores, so "
            "expect the images/s of one device there, however many services it runs."
        )
    if setting.machine is None:
        lines.append("Other callers of these services, or both halves on one device, would have made them slower.")
    if setting.load is not None and setting.load > _OTHER_WORK * _cores():
        lines.append(
            f"This machine had other work before (load {setting.load:.1f} on {counted(_cores(), 'core')}): if "
            "that went on, the rates are too low, and not equally."
        )
    least = min(min(plan.encoder.images, plan.llm.images) for plan in plans)
    if least < _FEW_IMAGES:
        lines.append(f"The least sure rate comes from {counted(least, 'image')}; a larger --seconds makes it surer.")
    if any(rate.client_busy > _BUSY_CLIENT for plan in plans for rate in (plan.encoder, plan.llm)):
        lines.append(
            "The measuring process itself was busy all the time: the services may be faster than it could see."
        )
    return "\n".join(_wrapped(line) for line in lines)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH)


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.01 else f"{value:.2g}"
