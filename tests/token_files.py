"""Reads and changes files of stored vision tokens, for tests of damaged and of older files."""

from collections.abc import Mapping
from pathlib import Path

from visionsplit.wire.stored_tensors import StoredTensor, read_tensors, write_tensors


def read_file(path: Path) -> tuple[dict[str, StoredTensor], Mapping[str, str]]:
    with path.open("rb") as file:
        return read_tensors(file)


def write_file(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    with path.open("wb") as file:
        write_tensors(file, tensors, metadata)
