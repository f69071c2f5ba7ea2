"""vLLM's plugin: what each of its processes does when it starts. The package's metadata names `register`."""

import multiprocessing
import os
import signal
import threading

from llm_service.engines.vllm.environment import OWNED


def register() -> None:
    """Make the load format known, and tie processes that this service's engine has started to their parent."""
    from llm_service.engines.vllm.weights import register_format

    register_format()
    parent = multiprocessing.parent_process()
    if parent is None or OWNED not in os.environ:
        return
    # Ctrl-C reaches all processes of a terminal. Running requests are to be finished first, so the service alone
    # decides when its engine ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # vLLM's engine core would outlive a service that was killed, and keep the GPU's memory.
    threading.Thread(target=_end_after, args=(parent,), name="parent-watch", daemon=True).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
