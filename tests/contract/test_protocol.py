"""The committed stubs equal those generated from the schema."""

import filecmp
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_regenerating_the_stubs_changes_nothing(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts" / "generate-stubs.sh", tmp_path],
        check=True,
        capture_output=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    committed, fresh = ROOT / "proto" / "visionsplit" / "v1", tmp_path / "visionsplit" / "v1"
    names = sorted(path.name for path in committed.glob("*_pb2*"))
    assert sorted(path.name for path in fresh.iterdir()) == names
    assert filecmp.cmpfiles(committed, fresh, names, shallow=False) == (names, [], [])
