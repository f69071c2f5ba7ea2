"""Draws the sample images: `python -m training.make_samples [folder]`.

Scenes of the generator from separate seeds, which neither training nor evaluation uses, chosen for what is in them
and not for how the model does on them.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from training.dialogue.captions import caption
from training.scenes.lots import Canvas, draw_scene
from training.scenes.render import render
from training.scenes.scene import Scene

TILE = 168  # pixels, as in the shipped model


@dataclass(frozen=True)
class Sample:
    """A sample image: the seed that its scene is drawn from, and the size of its grid."""

    name: str
    seed: int
    rows: int  # of crops
    columns: int

    def scene(self) -> Scene:
        """A description of the image's content."""
        return draw_scene(f"samples/{self.seed}", Canvas(self.rows, self.columns, TILE))


SAMPLES = (
    Sample("office", 86, 1, 3),
    Sample("prices", 41, 3, 2),
    Sample("shapes", 445, 2, 2),
    Sample("signs", 447, 3, 2),
    Sample("street", 271, 2, 3),
)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models/samples")
    folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        scene = sample.scene()
        render(scene).save(folder / f"{sample.name}.png", optimize=True)
        print(f"| {sample.name}.png | {scene.width} x {scene.height} | {caption(scene)} |")


if __name__ == "__main__":
    main()
