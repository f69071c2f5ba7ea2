"""What is done to the vision tokens before and inside the language model, as one word of a command line."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from visionsplit.grid import Layout

from encoder_service.compression import CompressionSpec
from llm_service.job import PositionIds, PruningSpec

UNCOMPRESSED = "none"
THUMBNAIL = "thumbnail"
FORM = "METHOD[:NAME=VALUE[,NAME=VALUE...]][@RATIO][+PRUNING[:NAME=VALUE...][@RATIO]]"

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
    # A plus at the end of a name, as in prumerge+, is part of the name.
    found = re.fullmatch(r"(?P<before>.+?)(?:\+(?P<behind>[^+:@].*))?", text)
    if found is None:
        raise ValueError(f"condition {text!r} is empty; the form is {FORM}")
    before, behind = found["before"], found["behind"]
    method, settings, ratio = _parts(text, before)
    layout = settings.pop("layout", Layout.SPATIAL.value)
    if layout not in {known.value for known in Layout}:
        raise ValueError(f"condition {text!r} has the layout {layout!r}; spatial and reference exist")
    positions = settings.pop("positions", PositionIds.RENUMBERED.value)
    if positions not in {known.value for known in PositionIds}:
        raise ValueError(f"condition {text!r} has the positions {positions!r}; renumbered and original exist")
    quotas = settings.pop("quotas", None)
    if quotas not in (None, "only") or (quotas and behind is None):
        raise ValueError(f"condition {text!r}: quotas=only goes with a pruning, and is all there is")
    choices = {name: settings.pop(name) for name in _CHOICES if name in settings}
    spec = CompressionSpec(
        method,
        ratio,
        Layout(layout),
        **choices,
        parameters=_numbers(text, settings),
        quotas_only=quotas is not None,
    )
    pruning = None
    if behind is not None:
        method, settings, ratio = _parts(text, behind)
        pruning = PruningSpec(method, ratio, _numbers(text, settings))
    return Condition(text, spec, pruning, PositionIds(positions))


def of_known_methods(conditions: Iterable[str], methods: Collection[str]) -> list[str]:
    """Those of the conditions whose method is among these."""
    known = {*methods, THUMBNAIL}
    return [condition for condition in conditions if parse_condition(condition).method in known]


def _parts(text: str, part: str) -> tuple[str, dict[str, str], float | None]:
    """A method with its settings and ratio."""
    head, at, ratio = part.partition("@")
    method, _, listed = head.partition(":")
    settings: dict[str, str] = {}
    for setting in filter(None, listed.split(",")):
        name, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"condition {text!r} has the setting {setting!r}; the form is {FORM}")
        settings[name] = value
    return method, settings, _number(text, "the ratio", ratio) if at else None


def _numbers(text: str, settings: Mapping[str, str]) -> dict[str, float]:
    return {name: _number(text, name, value) for name, value in settings.items()}


def _number(text: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"condition {text!r} has {value!r} for {name}; a number is needed") from None
