"""Measures the stages of one call, for its caller and for the metrics."""

import time
from dataclasses import dataclass

from visionsplit.v1 import generation_pb2

from llm_service.gateway.metrics import LlmMetrics
from llm_service.gateway.receiver import Upload
from llm_service.job import TokenEvent


@dataclass
class CallClock:
    """The times of one call's stages, in seconds of time.monotonic()."""

    started: float
    metrics: LlmMetrics
    received: float = 0.0
    sent: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    queue_seconds: float = 0.0

    def upload_done(self, upload: Upload) -> None:
        """Record that the upload is complete and checked."""
        self.received = time.monotonic()
        self.metrics.received(upload)
        self.metrics.receive.observe(self.received - self.started)

    def passed_on(self) -> None:
        """Record that the request goes to a replica."""
        self.sent = time.monotonic()

    def note(self, event: TokenEvent) -> None:
        """Record that an event of the replica has arrived."""
        now, tokens = time.monotonic(), len(event.token_ids)
        if not self.first_token:
            self.first_token = now
            self.queue_seconds = self.sent - self.received + event.queue_seconds
            self.metrics.first_token.observe(now - self.started)
            self.metrics.queue.observe(self.queue_seconds)
            self.metrics.prefill.observe(max(now - self.received - self.queue_seconds, 0.0))
        else:
            for _ in range(tokens):
                self.metrics.inter_token.observe((now - self.last_token) / tokens)
        self.metrics.generated_tokens.inc(tokens)
        self.last_token = now

    def answered(self) -> None:
        """Record that the answer is complete."""
        self.metrics.decode.observe(self.last_token - self.first_token)

    def timings(self) -> generation_pb2.LlmTimings:
        """The timings for the caller."""
        return generation_pb2.LlmTimings(
            receive_seconds=self.received - self.started,
            queue_seconds=self.queue_seconds,
            first_token_seconds=self.first_token - self.started,
            decode_seconds=self.last_token - self.first_token,
            total_seconds=time.monotonic() - self.started,
        )
