"""What works on the rows: services that run already (`services`), or services that it starts on Ray (`ray_runner`).

Only the modules with `ray` in their names need Ray and the services' packages, so they are not imported here.
"""

from visionsplit_batch.runners.base import Runner, RunnerIdentity, StageUse, Work, WorkKind

__all__ = ["Runner", "RunnerIdentity", "StageUse", "Work", "WorkKind"]
