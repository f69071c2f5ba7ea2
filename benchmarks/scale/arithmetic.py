"""From measured costs to the encoders, gateways and cores that a number of GPUs needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from benchmarks.efficiency.tables import markdown
from benchmarks.scale.measure import Point

GPUS = 1000
# LLaVA-NeXT-7B on an H100. Only the first figure was measured (docs/measurements.md): an image of five tiles takes the
# bare vision tower 6.61 ms. The others are assumptions, by which the language model's rate is calculated.
_TOWER_SECONDS = 0.00661
_PREFILL_TFLOPS = {1.0: 42.47, 0.25: 10.26, 0.1: 4.37}  # of an image's tokens with newlines, closed form
_SUSTAINED_TFLOPS = 400.0  # a second
_STEP_SECONDS, _REQUESTS_OF_STEP, _ANSWER_TOKENS = 0.025, 64, 64
_USE = 0.5  # of a core by a gateway, so that it answers at once


@dataclass(frozen=True)
class Costs:
    """Processor seconds and bytes, as measured where devices take no time."""

    encoder: float  # of an image, decoded and cut and its tokens chosen on a CPU
    gateway: Mapping[float, float]  # of a request with one new token, by ratio
    gateway_token: float  # of each further token
    replica: float  # of a request with one new token, at the smallest ratio
    replica_token: float
    upload_bytes: Mapping[float, int]  # by ratio

    @classmethod
    def of(cls, points: Sequence[Point]) -> "Costs":
        """Take the costs from a run's points."""
        encoder = [p for p in points if p.experiment == "encoders" and not p.device_seconds][-1]
        ray = [p for p in points if p.experiment == "gateway, Ray"]
        short = {p.ratio: p for p in ray if p.new_tokens == 1}
        (long,) = (p for p in ray if p.new_tokens > 1)
        first = short[long.ratio]

        def of_token(kind: str) -> float:
            more = long.processor_seconds[kind] - first.processor_seconds[kind]
            return max(more, 0.0) / (long.new_tokens - first.new_tokens)

        return cls(
            encoder.processor_seconds["encoder"],
            {ratio: p.processor_seconds["gateway"] for ratio, p in short.items()},
            of_token("gateway"),
            first.processor_seconds["replica"],
            of_token("replica"),
            {ratio: p.upload_bytes for ratio, p in short.items()},
        )

    def gateway_seconds(self, ratio: float, tokens: int) -> float:
        """Of a whole request."""
        return self.gateway[ratio] + (tokens - 1) * self.gateway_token


def llm_rate(ratio: float) -> float:
    """Images a second of one GPU with the language model, calculated."""
    prefill = _PREFILL_TFLOPS[ratio] / _SUSTAINED_TFLOPS
    return 1 / (prefill + _ANSWER_TOKENS * _STEP_SECONDS / _REQUESTS_OF_STEP)


def thousand_gpus(costs: Costs) -> str:
    """A table, and what it is made of."""
    encoder_rate = 1 / _TOWER_SECONDS
    rows = []
    for ratio in sorted(costs.gateway, reverse=True):
        rate = llm_rate(ratio)
        llms = GPUS / (1 + rate / encoder_rate)  # encoders and language models that keep each other busy
        images = llms * rate
        gateways = images * costs.gateway_seconds(ratio, _ANSWER_TOKENS) / _USE
        rows.append(
            (
                f"{ratio:.0%}",
                f"{rate:.1f}",
                f"{GPUS - llms:.0f} + {llms:.0f}",
                f"{images:,.0f}",
                f"{images * costs.upload_bytes[ratio] / 1e9:.1f}",
                f"{gateways:.0f}",
                f"{GPUS / gateways:.0f}",
                f"{images / gateways * costs.upload_bytes[ratio] / 1e6:.0f}",
                f"{images * costs.encoder / (GPUS - llms):.1f}",
            )
        )
    header = (
        *("kept", "images/s of an LLM GPU", "encoders + LLMs", "images/s", "GB/s of tokens", "gateways"),
        *("GPUs per gateway", "MB/s per gateway", "cores per encoder GPU"),
    )
    return f"{fill(_made_of(costs), 120)}\n\n{markdown(header, rows)}"


def _made_of(costs: Costs) -> str:
    smallest = min(costs.gateway)
    return (
        "Measured here: an image takes an encoder's processors "
        f"{1e3 * costs.encoder:.0f} ms. A request with {smallest:.0%} of the tokens takes a gateway on Ray "
        f"{1e3 * costs.gateway[smallest]:.1f} ms and each token of its answer {1e3 * costs.gateway_token:.3f} ms; a "
        f"replica's process {1e3 * costs.replica:.1f} ms and {1e3 * costs.replica_token:.3f} ms. Measured on machine B "
        f"of [measurements](measurements.md): the tower takes {1e3 * _TOWER_SECONDS:.2f} ms for an image. Assumed: "
        f"prefill at {_SUSTAINED_TFLOPS:.0f} TFLOP/s, answers of {_ANSWER_TOKENS} tokens, steps of "
        f"{1e3 * _STEP_SECONDS:.0f} ms for {_REQUESTS_OF_STEP} requests, gateways busy to {_USE:.0%} of a core. All "
        "columns are calculated from these."
    )
