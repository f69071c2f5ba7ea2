"""Offline jobs: caption or encode a dataset, with running services or with services that the job starts on Ray.

`Caption`, `Encode` and `Ask` put the same work into a Ray Data pipeline. They are loaded when they are asked for, since
they need more packages than a look at the options of a job.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionsplit_batch.steps import Ask, Caption, Encode

__all__ = ["Ask", "Caption", "Encode"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of the classes above
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from visionsplit_batch import steps

    return getattr(steps, name)
