"""What works on the rows: services that run already (`services`), or pools on a Ray cluster (`ray_data`).

Only `hosts`, `feed` and `ray_data` need Ray and the services' packages, so they are not imported here.
"""

from visionsplit_batch.runners.base import Runner, RunnerIdentity, StageUse, Work, WorkKind

__all__ = ["Runner", "RunnerIdentity", "StageUse", "Work", "WorkKind"]
