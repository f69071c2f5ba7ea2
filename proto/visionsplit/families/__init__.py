"""The families of models that visionsplit can split, found by `model_type` of config.json.

What differs between models is in this package: a folder for each family, and beside the folders what several of them
share. No module elsewhere knows a family's name. docs/families.md says how a family is added.

    base.py          what a family says of itself: the seam; also what one family's checkpoint says of images
    checkpoint.py    a checkpoint of any family, opened but not loaded
    tiler.py         cuts images into tiles
    encoder_half.py  the vision half that the encoder service runs, and tower_outputs.py, what comes out of it
    language_half.py the connector that the LLM service runs, and prompt_images.py, what stands for images in a prompt
"""

from visionsplit.families.aya_vision.family import AyaVision
from visionsplit.families.base import Family
from visionsplit.families.internvl.family import InternVL
from visionsplit.families.llava_next.family import LlavaNext
from visionsplit.families.llava_onevision.family import LlavaOnevision
from visionsplit.families.smolvlm.family import SmolVlm

FAMILIES: tuple[Family, ...] = (
    LlavaNext(),
    InternVL(),
    SmolVlm(),
    LlavaOnevision(),
    AyaVision(),
)

_BY_NAME = {family.name: family for family in FAMILIES}
_BY_MODEL_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}
MODEL_TYPES = tuple(_BY_MODEL_TYPE)
UNNAMED = FAMILIES[0].name  # the family of tokens from before tokens named their family


def family_of(model_type: str) -> Family:
    """The family of a checkpoint, by one of `MODEL_TYPES`."""
    return _BY_MODEL_TYPE[model_type]


def family_named(name: str) -> Family | None:
    """The family that tokens name; None if this version does not know it."""
    return _BY_NAME.get(name or UNNAMED)
