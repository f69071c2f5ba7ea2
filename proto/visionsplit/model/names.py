"""What a checkpoint's name means: a folder, or the id of a checkpoint on the Hugging Face hub. Needs no PyTorch."""

from pathlib import Path


def is_path(name: str) -> bool:
    """Whether a name can only be a path: a hub id is NAME or OWNER/NAME, and begins with a letter or a digit."""
    return name.count("/") > 1 or name.startswith(("/", ".", "~"))


def is_missing_folder(name: str) -> bool:
    """Whether a name means a folder that is not there: a path, or a name behind that of a folder which is there."""
    owner, slash, _ = name.partition("/")
    return (is_path(name) or (bool(slash) and Path(owner).is_dir())) and not Path(name).is_dir()
