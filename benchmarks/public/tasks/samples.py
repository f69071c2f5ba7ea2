"""The functions that visionsplit_samples.yaml names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

_IMAGES = Path(__file__).parents[3] / "models" / "samples"


def images(document: Mapping[str, Any]) -> list[Image.Image]:
    with Image.open(_IMAGES / document["image"]) as image:
        return [image.convert("RGB")]


def text(document: Mapping[str, Any]) -> str:
    return str(document["question"])


def score(document: Mapping[str, Any], answers: Sequence[str]) -> dict[str, float]:
    return {"exact_match": float(answers[0].strip().lower() == document["answer"].lower())}
