"""What vLLM's scheduler says of its KV cache after each step."""

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats


class CoreStatistics(PrometheusStatLogger):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Keeps the latest figures.

    vLLM always adds its Prometheus logger, which would fill the process's global registry at every step, unless a
    given one is of that class. This one replaces it and calls nothing of it.
    """

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int] | None = None) -> None:
        self.kv_used_ratio = 0.0
        self.prefix_tokens = 0  # of prompts, looked up in the prefix cache
        self.prefix_tokens_found = 0

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        if scheduler_stats is not None:
            self.kv_used_ratio = scheduler_stats.kv_cache_usage
            self.prefix_tokens += scheduler_stats.prefix_cache_stats.queries
            self.prefix_tokens_found += scheduler_stats.prefix_cache_stats.hits

    def log_engine_initialized(self) -> None:
        pass

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        pass

    def record_admission_rejection(self, reason: str) -> None:
        pass
