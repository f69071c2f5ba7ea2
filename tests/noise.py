"""Images for tests. This module imports no service, so that processes which only need images start quickly."""

import numpy as np
from PIL import Image


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image in which every part differs, so that a misplaced token changes the answer."""
    generator = np.random.default_rng([seed, width, height])
    coarse = generator.integers(0, 255, (min(height, 40), min(width, 40), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
