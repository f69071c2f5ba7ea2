"""The inputs of a batch job, one file per format. `open_source` selects the right one."""

from visionsplit_batch.sources.factory import open_source
from visionsplit_batch.sources.table import Columns

__all__ = ["Columns", "open_source"]
