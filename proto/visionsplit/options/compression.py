"""What a request may ask of the compression in the encoder, and what a ratio or a method alone means."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from visionsplit.options.layout import Layout, check_layout
from visionsplit.options.parameters import check_numbers

KEEP_ALL = "none"  # the method that keeps every token
# GlobalCom2's scores and budgets with a selection that avoids similar tokens: docs/accuracy.md has the comparison.
DEFAULT_METHOD = "globalcom2-diverse"
DEFAULT_RATIO = 0.25  # for methods that need a ratio, where a request gives none


@dataclass(frozen=True)
class Compression:
    """Which vision tokens an image keeps. `Client.encoder_info()` lists the names that the encoder knows.

    The method sets score, budget, selection and merging; those given here replace its own. The encoder refuses unknown
    names and a ratio outside (0, 1] with `InvalidCompressionError`.

    Raises:
        ValueError: there is no such layout.
        TypeError: a parameter is not a number.
    """

    method: str = DEFAULT_METHOD
    retention_ratio: float | None = None  # share of the tokens to keep, in (0, 1]; None: 0.25, or what the method finds
    layout: Layout = "spatial"
    score: str | None = None  # what a token is worth
    budget: str | None = None  # how many each tile keeps
    selection: str | None = None  # which ones
    merging: str | None = None  # what they take over from the others
    parameters: Mapping[str, float] = field(default_factory=dict)
    quotas_only: bool = False  # send every token, and only say how many of each tile `Pruning` is to keep
    guidance: str | None = None  # text for methods that look at one; without it they read the prompt

    def __post_init__(self) -> None:
        check_layout(self.layout)
        check_numbers(self.parameters)

    @classmethod
    def none(cls, layout: Layout = "spatial") -> "Compression":
        """Keep every token."""
        return cls(method=KEEP_ALL, layout=layout)


def chosen_method(method: str | None, ratio: float | None) -> str | None:
    """The method that a command line asks for; None where it names neither a method nor a ratio.

    Raises:
        ValueError: the two contradict each other. The text names the options.
    """
    if method == KEEP_ALL and ratio is not None and ratio != 1:
        raise ValueError(f"--method {KEEP_ALL} keeps every vision token; the ratio {ratio:g} contradicts it")
    if method is None and ratio is not None:
        return DEFAULT_METHOD
    return method
