"""The metrics of the encoder's work, in addition to those of its calls.

Seconds are those of `EncodeTimings`. `compression` is a row of the table of methods, whatever parts a request replaced.
"""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from visionsplit.telemetry.metrics import SHORT_BUCKETS, TILE_BUCKETS, Metrics

from encoder_service.caching.tokens import CacheCounts, CacheUse
from encoder_service.pipeline.events import ImageDone
from encoder_service.pipeline.pipeline import EncoderPipeline

_CACHE = "visionsplit_encoder_cache"
_LABEL = "compression"


class EncoderMetrics:
    """The encoder's metrics in one server's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        make = Metrics(registry, "encoder")
        short = partial(make.seconds, buckets=SHORT_BUCKETS)
        self._images = make.counter("images", "Images encoded.", _LABEL)
        text = "Vision tokens of those images without compression."
        self._tokens_before = make.counter("vision_tokens_before", text, _LABEL)
        self._tokens_after = make.counter("vision_tokens_after", "Vision tokens kept of them.", _LABEL)
        self._bytes = make.counter("wire_bytes", "Bytes of features, scales and positions made of them.", _LABEL)
        self._preprocess = short("preprocess", "An image's decoding, turning, cutting and normalising.")
        self._queue = make.seconds("queue", "From then until its first tile entered the vision tower.")
        self._encode = short("encode", "Forward passes that held its tiles, with scores and selection.")
        self._first_chunk = make.seconds("first_chunk", "From the call's start to its first chunk of tokens.")
        self._image = make.seconds("image", "From the call's start to its last chunk of tokens.")
        self._batch_tiles = Histogram(
            "visionsplit_encoder_batch_tiles", "Tiles of a forward pass.", buckets=TILE_BUCKETS, registry=registry
        )
        self._batch = short("batch", "A forward pass with scores, selection and the way to the host.")
        text = "Of that, what choosing tokens took the host; on a GPU, only the launching of it."
        self._compression = short("compression", text)
        self._queued_tiles = make.gauge("queued_tiles", "Tiles that wait for the vision tower.")
        text = "Tiles of images from before their decoding until they are encoded, by their files' headers."
        self._reserved_tiles = make.gauge("reserved_tiles", text)

    def watch(self, pipeline: EncoderPipeline) -> None:
        """Ask a pipeline whenever the metrics are read, which happens on another thread. Call this once."""
        CacheMetrics(self._registry, lambda: pipeline.cache_counts)
        self._queued_tiles.set_function(lambda: pipeline.queued_tiles)
        self._reserved_tiles.set_function(lambda: pipeline.reserved_tiles)

    def image_done(self, done: ImageDone, compression: str) -> None:
        """An image's last tokens are ready."""
        self._images.labels(compression).inc()
        self._tokens_before.labels(compression).inc(sum(done.grid.valid_counts()))
        self._tokens_after.labels(compression).inc(sum(done.budgets))
        self._bytes.labels(compression).inc(done.wire_bytes)
        if done.cache in (CacheUse.OFF, CacheUse.MISS):
            self._preprocess.observe(done.preprocess_seconds)
            self._queue.observe(done.queue_seconds)
            self._encode.observe(done.encode_seconds)
        self._first_chunk.observe(done.first_chunk_seconds)
        self._image.observe(done.total_seconds)

    def batch_done(self, tiles: int, seconds: float, compression_seconds: float) -> None:
        """A forward pass is over. Called on the device's thread."""
        self._batch_tiles.observe(tiles)
        self._batch.observe(seconds)
        self._compression.observe(compression_seconds)


class CacheMetrics(Collector):
    """Exports both tiers of the cache of tokens, which are read at each scrape, on the thread of the page."""

    def __init__(self, registry: CollectorRegistry, read: Callable[[], CacheCounts | None]) -> None:
        self._read = read
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        counts = self._read()
        if counts is None:
            return
        lookups = CounterMetricFamily(f"{_CACHE}_lookups", "Look-ups by result.", labels=("cache", "result"))
        # What memory does not have is looked for on disk; an image that an equal request is encoding joins that one.
        for tier, result, amount in (
            ("memory", "hit", counts.memory_hits),
            ("memory", "miss", counts.disk_hits + counts.misses),
            ("memory", "joined", counts.joined),
            ("disk", "hit", counts.disk_hits),
            ("disk", "miss", counts.misses),
        ):
            lookups.add_metric((tier, result), amount)
        yield lookups
        for kind, name, text, memory, disk in (
            (CounterMetricFamily, "evictions", "Entries evicted.", counts.memory_evictions, counts.disk_evictions),
            (CounterMetricFamily, "failures", "Entries that could not be read or written.", 0, counts.disk_failures),
            (CounterMetricFamily, "skipped", "Entries left out of a full queue of writes.", 0, counts.disk_skipped),
            (GaugeMetricFamily, "entries", "Entries held.", counts.memory_entries, counts.disk_entries),
            (GaugeMetricFamily, "bytes", "Bytes held.", counts.memory_bytes, counts.disk_bytes),
        ):
            family = kind(f"{_CACHE}_{name}", text, labels=("cache",))
            family.add_metric(("memory",), memory)
            family.add_metric(("disk",), disk)
            yield family
