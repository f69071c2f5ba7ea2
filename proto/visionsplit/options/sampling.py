"""How an answer is decoded: what a request may ask, its ranges, and the choices with which an engine decodes."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from visionsplit.errors import InvalidSamplingError

PENALTY_RANGE = (0.01, 100.0)  # beyond it a score leaves float32's range, or every seen token is alike
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
_OFF = -1  # the value with which callers of other libraries say that top_k or seed is not used


@dataclass(frozen=True)
class Sampling:
    """How the answer is decoded. None leaves the choice to the LLM service, which decodes greedily.

    Raises:
        InvalidSamplingError: a count or seed is too small or too large for the protocol. Other ranges are the LLM
            service's to check; it refuses with the same class.
        TypeError: `stop` is a single string.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None  # 0 decodes greedily
    top_p: float | None = None  # in (0, 1]
    top_k: int | None = None  # 0 keeps all, and so does -1
    seed: int | None = None  # the same seed and request give the same text; -1 means no seed
    stop: Sequence[str] = ()  # the text ends before the first of these; at most 16 of 1 to 256 characters
    repetition_penalty: float | None = None  # in [0.01, 100]; 1 changes nothing

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise TypeError("stop is a list of strings, not one string")
        _check_whole("max_new_tokens", self.max_new_tokens, 1, 2**32 - 1)
        _check_whole("top_k", self.top_k, _OFF, 2**32 - 1)
        _check_whole("seed", self.seed, _OFF, 2**64 - 1)
        if self.top_k == _OFF:
            object.__setattr__(self, "top_k", 0)
        if self.seed == _OFF:
            object.__setattr__(self, "seed", None)

    def check(self) -> None:
        """The LLM service's check of the ranges.

        Raises:
            InvalidSamplingError: names the option, its value and its range.
        """
        temperature, top_p, penalty = self.temperature, self.top_p, self.repetition_penalty
        if temperature is not None and not (math.isfinite(temperature) and temperature >= 0):
            raise InvalidSamplingError(f"temperature {temperature} is not 0 or more")
        if top_p is not None and not 0 < top_p <= 1:  # true for NaN too
            raise InvalidSamplingError(f"top_p {top_p} is not in (0, 1]")
        low, high = PENALTY_RANGE
        if penalty is not None and not low <= penalty <= high:
            raise InvalidSamplingError(f"repetition_penalty {penalty} is not in [{low:g}, {high:g}]")
        _check_stop(self.stop)

    def resolve(self, *, max_new_tokens: int, repetition_penalty: float) -> "ResolvedSampling":
        """Every choice made: what is asked for, else these defaults; a random seed where none is given.

        Raises:
            InvalidSamplingError: as by `check`.
        """
        self.check()
        defaults = {
            "max_new_tokens": max_new_tokens,
            "repetition_penalty": repetition_penalty,
            "seed": secrets.randbits(64),
        }
        asked = {name: value for name, value in vars(self).items() if value is not None}
        return ResolvedSampling(**{**defaults, **asked, "stop": tuple(self.stop)})


@dataclass(frozen=True)
class ResolvedSampling:
    """How one answer is decoded. The ranges have been checked.

    A class beside `Sampling` with the same fields, so that an engine never meets a choice that is still open.
    """

    max_new_tokens: int
    temperature: float = 0.0  # 0 decodes greedily
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps all
    seed: int = 0  # in [0, 2**64)
    stop: tuple[str, ...] = ()
    repetition_penalty: float = 1.0


def _check_whole(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidSamplingError(f"{name} is {value}; it must lie between {low} and {high}")


def _check_stop(stop: Sequence[str]) -> None:
    if len(stop) > MAX_STOP_STRINGS:
        raise InvalidSamplingError(f"{len(stop)} stop strings; at most {MAX_STOP_STRINGS}")
    for text in stop:
        if not 0 < len(text) <= MAX_STOP_CHARACTERS:
            raise InvalidSamplingError(
                f"stop string of {len(text)} characters; 1 to {MAX_STOP_CHARACTERS} are possible"
            )
