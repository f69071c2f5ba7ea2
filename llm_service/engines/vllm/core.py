"""One running vLLM: its processes, and the object through which this process speaks with them."""

import logging
import threading
from dataclasses import dataclass, field

from visionsplit.command_line.settings import ConfigError
from visionsplit.errors import UnavailableError
from vllm import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from llm_service.engines.vllm.statistics import CoreStatistics

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.1


@dataclass(frozen=True)
class RunningCore:
    """vLLM's engine core in processes beside this one."""

    llm: AsyncLLM
    statistics: CoreStatistics
    _stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def alive(self) -> bool:
        return not (self._stopped.is_set() or self.llm.errored)

    def wait(self) -> object:
        """Block until a process of vLLM has died, or `stop` was called."""
        while not self._stopped.wait(_WATCH_SECONDS):
            if self.llm.errored:
                return "a process of vLLM's engine has ended"
        return "stopped"

    def stop(self) -> None:
        """End vLLM's processes. Blocks; requests must be ended by the caller."""
        self._stopped.set()
        self.llm.shutdown()


def start_core(arguments: AsyncEngineArgs) -> RunningCore:
    """Start vLLM's processes and load the weights. Blocks.

    Raises:
        ConfigError: vLLM refuses a value among its arguments.
        UnavailableError: the processes did not start.
    """
    try:
        config = arguments.create_engine_config()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"vLLM refuses its arguments: {' '.join(str(error).split())}") from error
    try:
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[CoreStatistics], disable_log_stats=True)
    except RuntimeError as error:
        _log.debug("vLLM did not start", exc_info=True)
        raise UnavailableError(f"vLLM did not start: {' '.join(str(error).split())}") from error
    assert llm.logger_manager is not None, "there is a logger of statistics"
    (statistics,) = (one for one in llm.logger_manager.stat_loggers if isinstance(one, CoreStatistics))
    return RunningCore(llm, statistics)
