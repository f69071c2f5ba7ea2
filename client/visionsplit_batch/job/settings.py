"""All that decides what a run writes, as JSON: runs with the same settings may go on with each other's work."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from visionsplit_batch.job.run_folder import fingerprint
from visionsplit_batch.rows.records import RunLabels, method_text
from visionsplit_batch.rows.rows import Source
from visionsplit_batch.runners import RunnerIdentity, Work

# Of what is written for the same settings; to be raised when a version writes something else.
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
    """
    Args:
        source: the input.
        work: what is done with each row; how long a call may take decides nothing.
        identity: who does it; of its versions only the models count, so that an update does not end a run.
        output_format: of the files of answers.
        columns: of the input, that are carried along.
        rows_per_part: how the output is cut.
    """
    wanted = asdict(work)
    del wanted["timeout"]
    # The encoder's defaults are in the identity, so that naming them makes no difference.
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
    """What every row of the run has in common."""
    return RunLabels(
        model=identity.llm_model or identity.encoder_model or "",
        method=method_text(identity.compression, work.pruning, work.position_ids or "renumbered"),
        run=fingerprint(settings),
    )


def _plain(value: Any) -> Any:  # noqa: ANN401 - a dataclass or None
    return None if value is None else asdict(value)
