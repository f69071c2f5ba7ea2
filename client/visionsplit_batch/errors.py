"""What ends a batch job as a whole. What is wrong with one row is a `Failure` of that row."""

from visionsplit.errors import VisionSplitError


class BatchError(VisionSplitError):
    """A batch job cannot go on."""


class InputError(BatchError):
    """The input cannot be listed: not there, of another format, or a row's id comes twice."""


class OutputError(BatchError):
    """The output cannot be written."""


class TooManyFailuresError(BatchError):
    """More rows failed than the job may lose. Rows that failed are tried again, so another run would end the same."""


class RefusedRunError(OutputError):
    """The folder is not this run's: it belongs to a run with other settings or another input, or to something else."""
