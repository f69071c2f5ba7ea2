"""How the services on a Ray cluster share its GPUs."""

import math


def gpu_share(gpus: float, workers: int) -> float:
    """The share of a GPU for each worker: one, or the reciprocal of a whole number, which fills each GPU evenly.

    Args:
        gpus: those that the workers share.
        workers: encoders and replicas of the language model.
    """
    if workers == 0 or gpus <= 0:
        return 0.0
    whole = math.floor(gpus)
    return 1.0 / math.ceil(workers / whole) if whole else math.floor(gpus / workers * 100) / 100
