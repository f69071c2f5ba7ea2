"""Admits calls within limits, lets callers take turns at the replicas, and knows when the last call has ended."""

from prometheus_client import Gauge
from visionsplit.serving.overload import CallGate, CallPlaces, ServiceQueue, refuse_late

from llm_service.config import Limits
from llm_service.gateway.prefill import CheckedPrefill
from llm_service.gateway.uploads import Uploads

# Requests that a replica may hold before they have a first token. They are enough to fill the engine's steps with
# prompts, and few enough that a caller with one request is not far behind another's hundreds: the engine reads the
# prompts that it has accepted in order of arrival, without turns among callers.
_PROMPTS_AT_ONCE = 8


class Admission:
    """Admits calls up to the limits, and none while draining. Used from one event loop."""

    def __init__(self, limits: Limits, *, max_running: int, max_calls: int, uploads: Gauge) -> None:
        """
        Args:
            limits: what calls may hold.
            max_running: requests that a replica decodes together.
            max_calls: the most calls, unless `limits` has another number; a caller gets its share.
            uploads: set to the number of uploads under way.
        """
        self.gate = CallGate("the service is stopping")
        self.places = CallPlaces(limits.max_calls or max_calls, share=limits.caller_share)
        self.uploads = Uploads(limits, uploads)
        # Requests wait in a replica for different things: for a step, for rows of the slab, for the layerwise engine.
        # None of them must stand in the way of those that wait for something else.
        self._prompts_at_once = min(_PROMPTS_AT_ONCE, 2 * max_running)
        self._texts, self._images, self._layerwise = (
            ServiceQueue(self._prompts_at_once, share=limits.caller_share) for _ in range(3)
        )

    def set_replicas(self, replicas: int) -> None:
        """Set the number of serving replicas; without any, requests wait for the first."""
        for line in (self._texts, self._images, self._layerwise):
            line.resize(max(replicas, 1) * self._prompts_at_once)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for their turn at a replica."""
        return sum(line.waiting for line in (self._texts, self._images, self._layerwise))

    def line(self, prefill: CheckedPrefill, num_images: int) -> ServiceQueue:
        """The queue in which a request waits for its first token."""
        if prefill.layer_by_layer:
            return self._layerwise
        return self._images if num_images else self._texts

    def check(self, line: ServiceQueue, caller: str, time_remaining: float | None) -> None:
        """Refuse a call for which there is no place, or whose first token would come too late.

        Args:
            line: where it will wait.
            caller: whose call it is.
            time_remaining: seconds until the caller's deadline; None without one.

        Raises:
            OverloadedError: with the time after which to ask again.
        """
        self.places.check(caller)
        refuse_late(line.seconds_to_wait(caller), time_remaining)
