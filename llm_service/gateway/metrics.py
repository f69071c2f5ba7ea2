"""The gateway's metrics, in addition to those of its calls.

Replicas on Ray run in separate processes, which Prometheus does not scrape. So these metrics are computed from the
events that replicas send, and the use of slab and KV cache is queried once a second.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from visionsplit.telemetry.metrics import TOKEN_BUCKETS, Metrics

from llm_service.gateway.receiver import Upload
from llm_service.job import EngineUse

_NO_PRUNING = "none"


class LlmMetrics:
    """The gateway's metrics in one server's registry. `pruning` is a row of the table of methods, or "none"."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = Metrics(registry, "llm")
        self._images = make.counter("images", "Images received whole.")
        self._bytes = make.counter("wire_bytes", "Bytes of features, scales and positions received.")
        self._prompt_tokens = make.counter("prompt_tokens", "Tokens of prompts: text, vision or newline.", "kind")
        self._tokens_before = make.counter("vision_tokens_before", "Vision tokens without compression.", "pruning")
        self._tokens_after = make.counter("vision_tokens_after", "Vision tokens that entered the model.", "pruning")
        self.generated_tokens = make.counter("generated_tokens", "Tokens generated, of given-up calls too.")
        self.receive = make.seconds("receive", "From a call's start until its upload was whole and checked.")
        self.queue = make.seconds(
            "queue", "From the request's arrival in the engine, projector included, to its first step."
        )
        self.prefill = make.seconds("prefill", "From the request's first step to its first token.")
        self.first_token = make.seconds("time_to_first_token", "From a call's start to its first token.")
        self.inter_token = make.seconds("inter_token", "Between two tokens of an answer.", buckets=TOKEN_BUCKETS)
        self.decode = make.seconds("decode", "From an answer's first token to its last.")
        self.uploads = make.gauge("uploads_in_progress", "Requests being received.")
        self.replicas = make.gauge("replicas", "Replicas that work; counted once a second.")
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
