"""Exceptions that end a batch job. A problem with one row is a `Failure` of that row."""

from visionsplit.errors import VisionSplitError


class BatchError(VisionSplitError):
    """A batch job cannot continue."""


class InputError(BatchError):
    """The input cannot be listed: it does not exist, has another format, or contains a row id twice."""


class OutputError(BatchError):
    """The output cannot be written."""


class TooManyFailuresError(BatchError):
    """More rows failed than the job tolerates. Failed rows are retried, so another run would end in the same way."""


class RefusedRunError(OutputError):
    """The folder belongs to a run with other settings or another input, or contains other files."""
