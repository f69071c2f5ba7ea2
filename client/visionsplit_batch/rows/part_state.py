"""The state that a run stores about each finished part."""

import json
from dataclasses import asdict, dataclass

from visionsplit_batch.rows.rows import Failure


@dataclass(frozen=True)
class FailedRow:
    """A row without an answer."""

    index: int  # in the whole input
    id: str
    failure: Failure


@dataclass(frozen=True)
class PartState:
    """A finished part."""

    number: int
    rows: int  # of the input
    digest: str  # of its entries
    files: tuple[str, ...]  # names in the folder: one, and one more for each retry that answered rows
    written: int  # rows in these files
    tokens_before: int
    tokens_after: int
    failed: tuple[FailedRow, ...]

    @classmethod
    def from_json(cls, data: bytes) -> "PartState":
        fields = json.loads(data)
        failed = [FailedRow(row["index"], row["id"], Failure(**row["failure"])) for row in fields.pop("failed")]
        return cls(**{**fields, "files": tuple(fields["files"]), "failed": tuple(failed)})

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True)
class RunTotals:
    """Totals over all finished parts."""

    parts: int
    written: int  # rows in the files
    failed: int  # rows in the list of errors
