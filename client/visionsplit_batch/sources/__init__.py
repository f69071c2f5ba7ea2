"""The inputs of a batch job, one file a format. `open_source` finds the right one."""

from visionsplit_batch.sources.factory import open_source
from visionsplit_batch.sources.table import Columns

__all__ = ["Columns", "open_source"]
