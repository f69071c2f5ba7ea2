"""Clean environments, and the project's wheel in them with what uv.lock holds for some extras, and nothing else."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_PROGRAMS = Path(sys.executable).parent
_UV = _PROGRAMS / "uv"
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command that ends well, without the variables that point to this repository."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"UV": str(_UV), "PIP_NO_COMPILE": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(words[:6])} ...: {done.stdout[-4000:]}"
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """The wheel, built from the source archive as a packager would build it, and not from the working tree."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


@dataclass(frozen=True)
class Environment:
    """A virtual environment. It sees nothing of the one that the tests run in."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, wheel: Path, extras: Sequence[str] = (), torch: Path | None = None) -> "Environment":
        """Made from the locked versions. PyTorch is a gigabyte, so environments share a folder that holds only it and
        its own dependencies, which each of them would have in any case."""
        venv.create(folder, with_pip=False, symlinks=True)
        environment = cls(folder)
        if torch is not None:
            (environment.packages / "torch.pth").write_text(f"{torch}\n")
        locked = folder / "locked.txt"
        locked.write_text(run(ROOT / "scripts" / "locked.sh", *(f"--extra={extra}" for extra in extras)))
        # By uv, which takes seconds where pip takes minutes.
        install = (_UV, "pip", "install", "--quiet", "--python", environment.program("python"))
        run(*install, "--no-deps", "--require-hashes", "--requirements", locked)
        # Without an index: everything that the wheel and its extras require must be there by now.
        environment.pip("install", "--no-index", f"{wheel}[{','.join(extras)}]" if extras else wheel)
        return environment

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    @property
    def installed(self) -> set[str]:
        return {line.split("==")[0].lower() for line in self.pip("freeze").splitlines() if "==" in line}

    def pip(self, *arguments: str | Path) -> str:
        return run(*_PIP, "--python", self.program("python"), *arguments)

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name

    def run(self, name: str, *arguments: str | Path) -> str:
        """A program of the environment, run outside of the repository."""
        return run(self.program(name), *arguments, cwd=self.folder)


def install_torch(folder: Path) -> Path:
    """PyTorch and what it depends on, in a folder: the build that pip's own settings offer, in the locked version."""
    run(*_PIP, "install", "--target", folder, "--constraint", ROOT / "constraints.txt", "torch")
    return folder
