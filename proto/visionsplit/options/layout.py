"""The order in which an image's kept tokens enter the language model."""

from collections.abc import Mapping
from typing import Literal, get_args

from visionsplit.grid import UnpadRule

# spatial: the true positions; without compression this is Hugging Face's own order, whatever the family of models.
# reference: the order of GlobalCom2's published code, its quirks included; for LLaVA-NeXT only.
Layout = Literal["spatial", "reference"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# How the padding of an image is converted to cells, by the layout for which the image is encoded.
UNPAD_RULES: Mapping[Layout, UnpadRule] = {"spatial": UnpadRule.HUGGING_FACE, "reference": UnpadRule.REFERENCE}


def check_layout(layout: str) -> None:
    """Raises ValueError for an unknown name."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown; {', '.join(LAYOUTS)} exist")
