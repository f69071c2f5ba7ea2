"""What lies beside the source code where the tool runs from a checkout, and is not part of an installation."""

from pathlib import Path

_MODELS = Path(__file__).parents[2] / "models"


def shipped_model() -> str | None:
    """The folder of the checkpoint that the checkout contains."""
    folder = _MODELS / "visionsplit-mini"
    return str(folder) if (folder / "config.json").is_file() else None


def sample_images() -> list[Path]:
    """The sample images of the checkout; empty without one."""
    return sorted((_MODELS / "samples").glob("*.png"))
