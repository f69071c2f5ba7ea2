"""What is done to an image's vision tokens, as one word of a command line.

The form is that of `training.evaluation`, so that what a picture shows can be scored under the same name.
"""

import re

from visionsplit_client._options import LAYOUTS, Compression, Layout

FORM = "METHOD[:NAME=VALUE[,NAME=VALUE...]][@RATIO]"
_PARTS = ("score", "budget", "selection", "merging", "guidance")
_PRUNING = re.compile(r".+?\+[^+:@].*")  # a plus at the end of a name, as in prumerge+, is part of the name


def parse_condition(text: str, layout: Layout = "spatial") -> Compression:
    """Read "none", "globalcom2@0.25" or "globalcom2:score=local,tau=5@0.1".

    The names score, budget, selection, merging, guidance and layout mean the choices of a request; any other is a
    numeric parameter. Whether they exist is for the encoder to say. A guidance here can hold no comma and no @.

    Args:
        text: the word.
        layout: where the text names none.

    Raises:
        ValueError: the text has another form, or goes on with pruning in the language model, behind a plus: what that
            keeps depends on the question.
    """
    if _PRUNING.fullmatch(text):
        raise ValueError(f"{text!r} prunes in the language model; only what the encoder keeps can be shown")
    head, _, ratio = text.partition("@")
    method, _, settings = head.partition(":")
    if not method:
        raise ValueError(f"{text!r} names no method; the form is {FORM}")
    parts: dict[str, str] = {}
    parameters: dict[str, float] = {}
    for setting in filter(None, settings.split(",")):
        name, separator, value = setting.partition("=")
        if not (name and separator):
            raise ValueError(f"{text!r} has the setting {setting!r}; the form is {FORM}")
        if name == "layout":
            layout = _layout(text, value)
        elif name in _PARTS:
            parts[name] = value
        else:
            parameters[name] = _number(text, name, value)
    return Compression(
        method=method,
        retention_ratio=_number(text, "the ratio", ratio) if "@" in text else None,
        layout=layout,
        score=parts.get("score"),
        budget=parts.get("budget"),
        selection=parts.get("selection"),
        merging=parts.get("merging"),
        guidance=parts.get("guidance"),
        parameters=parameters,
    )


def condition_name(compression: Compression) -> str:
    """The word for it, without the ratio."""
    parts = {name: getattr(compression, name) for name in _PARTS}
    settings = [f"{name}={value}" for name, value in parts.items() if value is not None]
    settings += [f"layout={compression.layout}"] if compression.layout != "spatial" else []
    settings += [f"{name}={value:g}" for name, value in compression.parameters.items()]
    return compression.method + (f":{','.join(settings)}" if settings else "")


def _layout(text: str, name: str) -> Layout:
    for layout in LAYOUTS:
        if name == layout:
            return layout
    raise ValueError(f"{text!r} has the layout {name!r}; {' and '.join(LAYOUTS)} exist")


def _number(text: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{text!r} has {value!r} for {name}; a number is needed") from None
