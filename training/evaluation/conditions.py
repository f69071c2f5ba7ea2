"""What is done to the vision tokens before and inside the language model, as one word of a command line."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from visionsplit.grid import Layout
from visionsplit.options.conditions import split_condition

from encoder_service.compression import CompressionSpec
from llm_service.job import PositionIds, PruningSpec

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
_CHOICES = ("score", "budget", "selection", "merging")


@dataclass(frozen=True)
class Condition:
    """One treatment of every image.

    Without a spec it is the thumbnail alone: an image without crops, in the form that Hugging Face's model gives to
    one, which is the thumbnail's tokens followed by a single newline.
    """

    name: str
    spec: CompressionSpec | None
    pruning: PruningSpec | None = None  # in the language model
    position_ids: PositionIds = PositionIds.RENUMBERED

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
    layout = word.setting("layout", {known.value: known for known in Layout}) or Layout.SPATIAL
    positions = word.setting("positions", {known.value: known for known in PositionIds}) or PositionIds.RENUMBERED
    spec = CompressionSpec(
        word.method,
        word.ratio,
        layout,
        **{name: word.settings[name] for name in _CHOICES if name in word.settings},
        parameters=word.numbers(besides=(*_CHOICES, "layout", "positions", "quotas")),
        quotas_only=quotas is not None,
    )
    pruning = None if inside is None else PruningSpec(inside.method, inside.ratio, inside.numbers(besides=()))
    return Condition(text, spec, pruning, positions)


def of_known_methods(conditions: Iterable[str], methods: Collection[str]) -> list[str]:
    """Those of the conditions whose method is among these."""
    known = {*methods, THUMBNAIL}
    return [condition for condition in conditions if parse_condition(condition).method in known]
