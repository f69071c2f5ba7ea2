"""Trace spans of a job on its replica: one for the job, with children for queue, prefill and decode."""

import time
from types import TracebackType
from typing import Self

from opentelemetry.trace import SpanKind, Tracer, set_span_in_context
from visionsplit.telemetry.tracing import context_of, fail, past_stage

from llm_service.job import Job, TokenEvent


class ReplicaTrace:
    """The spans of one job; leaving the context ends them.

    The span is never made the current one: a job runs inside a generator, which any task may close.
    """

    def __init__(self, tracer: Tracer, job: Job) -> None:
        self._tracer = tracer
        self._span = tracer.start_span("replica", context=context_of(job.trace_context.items()), kind=SpanKind.SERVER)
        self._span.set_attribute("visionsplit.request_id", job.request_id)
        self._span.set_attribute("visionsplit.pruning", "none" if job.pruning is None else job.pruning.method)
        self._arrived = time.monotonic()  # when the engine received the job; set again by `prepared`
        self._prompt_tokens = 0
        self._queue_seconds = 0.0
        self._first_token = 0.0
        self._last_token = 0.0
        self._generated = 0

    def prepared(self, prompt_tokens: int) -> None:
        """Record that the engine receives the job now."""
        self._arrived = time.monotonic()
        self._prompt_tokens = prompt_tokens

    def note(self, event: TokenEvent) -> None:
        """Record that tokens have been decoded."""
        self._last_token = time.monotonic()
        self._generated += len(event.token_ids)
        if not self._first_token:
            self._first_token = self._last_token
            self._queue_seconds = event.queue_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._first_token:
            self._add_stages()
        self._span.set_attribute("visionsplit.prompt_tokens", self._prompt_tokens)
        self._span.set_attribute("visionsplit.generated_tokens", self._generated)
        if isinstance(exc, GeneratorExit):  # a stop string ended the answer, or the caller gave up
            self._span.set_attribute("visionsplit.given_up", True)
        elif exc is not None:
            fail(self._span, exc)
        self._span.end()

    def _add_stages(self) -> None:
        context = set_span_in_context(self._span)
        first_step = self._arrived + self._queue_seconds
        past_stage(self._tracer, "queue", self._arrived, first_step, context=context)
        past_stage(
            self._tracer,
            "prefill",
            first_step,
            self._first_token,
            context=context,
            prompt_tokens=self._prompt_tokens,
            seconds_to_first_token=self._first_token - self._arrived,
        )
        past_stage(
            self._tracer,
            "decode",
            self._first_token,
            self._last_token,
            context=context,
            generated_tokens=self._generated,
        )
