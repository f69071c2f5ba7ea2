"""What is done to the vision tokens before the language model sees them, as one word of a command line."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from visionsplit.grid import Layout

from encoder_service.compression import CompressionSpec

UNCOMPRESSED = "none"
THUMBNAIL = "thumbnail"
FORM = "METHOD[:NAME=VALUE[,NAME=VALUE...]][@RATIO]"

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
    spec: CompressionSpec | None

    @property
    def method(self) -> str:
        return THUMBNAIL if self.spec is None else self.spec.method


def parse_condition(text: str) -> Condition:
    """Read "none", "globalcom2@0.25", "globalcom2:score=local,layout=reference@0.1" or "thumbnail".

    The names score, budget, selection, merging and layout mean the choices of a request; any other is a numeric parameter.
    Whether they exist is for the compression's own check to say.

    Raises:
        ValueError: the text has another form.
    """
    if text == THUMBNAIL:
        return Condition(text, None)
    head, _, ratio = text.partition("@")
    method, _, settings = head.partition(":")
    choices: dict[str, str] = {}
    parameters: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        name, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"condition {text!r} has the setting {setting!r}; the form is {FORM}")
        if name in ("score", "budget", "selection", "merging", "layout"):
            choices[name] = value
        else:
            parameters[name] = _number(text, name, value)
    layout = choices.pop("layout", Layout.SPATIAL.value)
    if layout not in {known.value for known in Layout}:
        raise ValueError(f"condition {text!r} has the layout {layout!r}; spatial and reference exist")
    share = _number(text, "the ratio", ratio) if "@" in text else None
    return Condition(text, CompressionSpec(method, share, Layout(layout), parameters=parameters, **choices))


def of_known_methods(conditions: Iterable[str], methods: Collection[str]) -> list[str]:
    """Those of the conditions whose method is among these."""
    known = {*methods, THUMBNAIL}
    return [condition for condition in conditions if parse_condition(condition).method in known]


def _number(text: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"condition {text!r} has {value!r} for {name}; a number is needed") from None
