"""The gateway's metrics, in addition to those of its calls.

Replicas on Ray run in separate processes, which Prometheus does not scrape. So these metrics are computed from the
events that replicas send, and the use of slab and KV cache is queried once a second.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from visionsplit.telemetry.metrics import LONG_BUCKETS, TOKEN_BUCKETS

from llm_service.gateway.receiver import Upload
from llm_service.job import EngineUse

_NO_PRUNING = "none"


class LlmMetrics:
    """The gateway's metrics in one server's registry. `pruning` is a row of the table of methods, or "none"."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"visionsplit_llm_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"visionsplit_llm_{name}", text, registry=registry)

        def seconds(name: str, text: str, buckets: tuple[float, ...] = LONG_BUCKETS) -> Histogram:
            return Histogram(f"visionsplit_llm_{name}_seconds", text, buckets=buckets, registry=registry)

        self._images = counter("images", "Images received whole.")
        self._bytes = counter("wire_bytes", "Bytes of features, scales and positions received.")
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts: text, vision or newline.", "kind")
        self._tokens_before = counter("vision_tokens_before", "Vision tokens without compression.", "pruning")
        self._tokens_after = counter("vision_tokens_after", "Vision tokens that entered the model.", "pruning")
        self.generated_tokens = counter("generated_tokens", "Tokens generated, of given-up calls too.")
        self.receive = seconds("receive", "From a call's start until its upload was whole and checked.")
        self.queue = seconds(
            "queue", "From the request's arrival in the engine, projector included, to its first step."
        )
        self.prefill = seconds("prefill", "From the request's first step to its first token.")
        self.first_token = seconds("time_to_first_token", "From a call's start to its first token.")
        self.inter_token = seconds("inter_token", "Between two tokens of an answer.", TOKEN_BUCKETS)
        self.decode = seconds("decode", "From an answer's first token to its last.")
        self.uploads = gauge("uploads_in_progress", "Requests being received.")
        self.replicas = gauge("replicas", "Replicas that work; counted once a second.")
        self.use = UseMetrics(registry)

    def received(self, upload: Upload) -> None:
        """Record a complete and checked upload."""
        counts = upload.counts
        self._images.inc(len(upload.images))
        self._bytes.inc(upload.wire_bytes)
        for kind, tokens in (("text", counts.text), ("vision", counts.vision), ("newline", counts.newlines)):
            self._prompt_tokens.labels(kind).inc(tokens)
        pruning = _NO_PRUNING if upload.prefill.pruning is None else upload.prefill.pruning.method
        self._tokens_before.labels(pruning).inc(upload.vision_tokens_before)
        self._tokens_after.labels(pruning).inc(counts.vision)


class UseMetrics(Collector):
    """Memory use of each replica's engine. A replica that does not report has no samples, rather than old ones."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.replicas: Mapping[str, EngineUse] = {}  # by the replica's name; replaced as a whole, read from any thread
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        def gauge(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"visionsplit_llm_{name}", text, labels=("replica",))

        used = gauge("slab_tokens_used", "Vision tokens and newlines of running requests.")
        held = gauge("slab_tokens", "Vision tokens and newlines that the slab holds.")
        kv = gauge("kv_used_ratio", "Share of the KV cache that is taken, by prompts kept for reuse too.")
        for replica, use in self.replicas.items():
            used.add_metric((replica,), use.slab_tokens_used)
            held.add_metric((replica,), use.slab_tokens)
            kv.add_metric((replica,), use.kv_used_ratio)
        return [used, held, kv]
