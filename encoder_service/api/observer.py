"""Reports what one call's images cost to the metrics, the call's trace and its line in the log."""

import time

from opentelemetry.context import get_current
from opentelemetry.trace import Tracer
from visionsplit.serving.call_log import CallRecord
from visionsplit.telemetry.tracing import past_stage

from encoder_service.caching.tokens import CacheUse
from encoder_service.metrics import EncoderMetrics
from encoder_service.pipeline.events import ImageDone


class CallObserver:
    """Of one call. Made where the call's span is the current one."""

    def __init__(self, metrics: EncoderMetrics, tracer: Tracer, record: CallRecord, compression: str) -> None:
        """`compression` is a row of the table of methods."""
        self._metrics = metrics
        self._tracer = tracer
        self._context = get_current()
        self._record = record
        self._compression = compression
        record.fields["compression"] = compression

    def image_done(self, done: ImageDone) -> None:
        """An image's last tokens are ready."""
        self._metrics.image_done(done, self._compression)
        self._trace(done)
        tokens = {"tokens_before": sum(done.grid.valid_counts()), "tokens_after": sum(done.budgets)}
        for name, amount in {"images": 1, **tokens, "wire_bytes": done.wire_bytes}.items():
            self._record.fields[name] = int(self._record.fields.get(name, 0)) + amount

    def _trace(self, done: ImageDone) -> None:
        """Spans for preprocess, queue and encode, or for the cache that had the tokens.

        An image of several waits for the others between its preprocessing and the queue; its spans are put end to end.
        The passes that held its tiles need not follow one another, so the last may be longer than encode_seconds.
        """
        now = time.monotonic()
        before, after = sum(done.grid.valid_counts()), sum(done.budgets)
        cost: dict[str, str | int | float] = {
            "image_index": done.image_index,
            "compression": self._compression,
            "tiles": done.grid.num_tiles,
            "tokens_before": before,
            "tokens_after": after,
            "ratio": after / before,
            "wire_bytes": done.wire_bytes,
        }
        if done.cache in (CacheUse.MEMORY, CacheUse.DISK):
            past_stage(self._tracer, "cache", now, now, context=self._context, cache=done.cache.value, **cost)
            return
        encode = now - max(done.total_seconds - done.device_seconds, 0.0)
        queue = encode - done.queue_seconds
        context, image = self._context, done.image_index
        past_stage(
            self._tracer, "preprocess", queue - done.preprocess_seconds, queue, context=context, image_index=image
        )
        past_stage(self._tracer, "queue", queue, encode, context=context, image_index=image)
        past_stage(self._tracer, "encode", encode, now, context=context, device_seconds=done.encode_seconds, **cost)
