"""What is done to the vision tokens before and inside the language model, as one word of a command line."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from visionsplit.options.compression import Compression
from visionsplit.options.conditions import split_condition
from visionsplit.options.prefill import POSITION_IDS, PositionIds, Pruning

UNCOMPRESSED = "none"
THUMBNAIL = "thumbnail"

DEFAULT = (
    "none",
    "globalcom2@0.5",
    "globalcom2@0.25",
    "globalcom2@0.1",
    "globalcom2:score=local@0.1",
    "globalcom2:score=global@0.1",
    "globalcom2:budget=uniform@0.1",
    "fastervlm@0.25",
    "fastervlm@0.1",
    "random@0.25",
    "random@0.1",
    "uniform@0.1",
    "thumbnail",
)


@dataclass(frozen=True)
class Condition:
    """One treatment of every image.

    Without a spec it is the thumbnail alone: an image without crops, in the form that Hugging Face's model gives to
    one, which is the thumbnail's tokens followed by a single newline.
    """

    name: str
    spec: Compression | None
    pruning: Pruning | None = None  # in the language model
    position_ids: PositionIds = "renumbered"

    @property
    def method(self) -> str:
        return THUMBNAIL if self.spec is None else self.spec.method


def parse_condition(text: str) -> Condition:
    """Read "none", "globalcom2@0.25", "globalcom2:score=local,layout=reference@0.1", "none+fastv@0.1" or "thumbnail".

    Before the plus, the names score, budget, selection, merging and layout mean the choices of a request,
    positions=original the position ids of the uncompressed image, and quotas=only that the pruning behind the plus
    chooses, in the numbers of this method; any other name is a numeric parameter. Whether they exist is for the
    services' own checks to say.

    Raises:
        ValueError: the text has another form.
    """
    if text == THUMBNAIL:
        return Condition(text, None)
    word, inside = split_condition(text)
    quotas = word.settings.get("quotas")
    if quotas not in (None, "only") or (quotas and inside is None):
        raise ValueError(f"condition {text!r}: quotas=only goes with a pruning, and is all there is")
    positions = word.setting("positions", POSITION_IDS) or "renumbered"
    spec = replace(word.compression(besides=("positions", "quotas")), quotas_only=quotas is not None)
    return Condition(text, spec, None if inside is None else inside.pruning(), positions)


def of_known_methods(conditions: Iterable[str], methods: Collection[str]) -> list[str]:
    """Those of the conditions whose method is among these."""
    known = {*methods, THUMBNAIL}
    return [condition for condition in conditions if parse_condition(condition).method in known]
