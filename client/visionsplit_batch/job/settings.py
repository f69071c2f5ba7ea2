"""Everything that decides what a run writes, as JSON: a run continues another one if their settings are equal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from visionsplit_batch.job.saved_progress import fingerprint
from visionsplit_batch.rows.records import RunLabels, method_text
from visionsplit_batch.rows.rows import Source
from visionsplit_batch.runners import RunnerIdentity, Work

# Version of what is written for the same settings; raised when a release writes something else.
_VERSION = 1


def run_settings(
    source: Source,
    work: Work,
    identity: RunnerIdentity,
    *,
    output_format: str,
    columns: Sequence[str] | None,
    rows_per_part: int,
) -> dict[str, Any]:
    """The settings of a run, as JSON values.

    Args:
        source: the input.
        work: what is done with each row; the timeout of calls is not part of the settings.
        identity: what does the work. Of its versions only the models count, so that an update does not end a run.
        output_format: of the files of answers.
        columns: the input's columns that are copied to the output.
        rows_per_part: how the output is divided.
    """
    wanted = asdict(work)
    del wanted["timeout"]
    # The identity contains the encoder's defaults, so naming them explicitly makes no difference.
    wanted |= {"compression": _plain(identity.compression), "data_type": identity.data_type}
    models = {
        "encoder": identity.encoder_model,
        "encoder_fingerprint": identity.encoder_fingerprint,
        "llm": identity.llm_model,
    }
    settings = {
        "version": _VERSION,
        "input": dict(source.settings()),
        "work": wanted,
        "models": models,
        "output": {"format": output_format, "columns": columns, "rows_per_part": rows_per_part},
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def labels_of(settings: dict[str, Any], work: Work, identity: RunnerIdentity) -> RunLabels:
    """The values that all rows of the run have in common."""
    return RunLabels(
        model=identity.llm_model or identity.encoder_model or "",
        method=method_text(identity.compression, work.pruning, work.position_ids or "renumbered"),
        run=fingerprint(settings),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - a dataclass or None
    return None if value is None else asdict(value)
