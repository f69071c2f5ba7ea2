"""Parses lmms-eval's `--model_args` to a validated configuration. This module does not import lmms-eval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from visionsplit_client import Compression, DataTypeName, Layout, PositionIds, Pruning

SEPARATOR = ";"  # between the parts of one argument; lmms-eval splits arguments at commas

PromptForm = Literal["vicuna_v1", "checkpoint"]
Stops = Literal["until", "none"]
Argument: TypeAlias = str | int | float | bool  # the types to which lmms-eval converts an argument's text


@dataclass(frozen=True)
class Settings:
    """How a benchmark's questions are put to the model. The fields are the model arguments' names."""

    encoder: tuple[str, ...] = ("127.0.0.1:50051",)  # addresses, used in turn
    method: str = "none"
    retention_ratio: float | None = None
    score: str | None = None
    budget: str | None = None
    selection: str | None = None
    layout: Layout = "spatial"
    parameters: Mapping[str, float] | None = None
    quotas_only: bool = False
    pruning: str | None = None  # a method of the language model
    pruning_ratio: float | None = None
    pruning_parameters: Mapping[str, float] | None = None
    position_ids: PositionIds | None = None  # None leaves it to the LLM service
    data_type: DataTypeName | None = None  # None means the encoder's default
    prompt: PromptForm = "vicuna_v1"
    stop: Stops = "until"  # "none" ignores a task's `until`, as lmms-eval's adapter `llava` does
    seed: int = 0  # of the first sampled question; each further one uses the next number
    concurrency: int = 16  # concurrent calls
    max_images: int = 8  # in one question
    timeout: float = 600.0  # seconds for one call, including retries at an overloaded service
    tokens_file: Path | None = None  # JSON file for the counts of tokens
    model: str | None = None  # a checkpoint, loaded into this process in place of asking the services

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_images", "timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not self.encoder:
            raise ValueError("encoder needs at least one address")
        if self.pruning is None and (self.pruning_ratio is not None or self.pruning_parameters):
            raise ValueError("pruning_ratio and pruning_parameters need pruning, the name of a method")

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Argument]) -> Self:
        """Convert lmms-eval's parsed `--model_args`, in which numbers and booleans are typed and all else is text.

        Raises:
            ValueError: an argument of another name, or a value of another form.
        """
        known = {field.name: str(field.type) for field in fields(cls)}
        if unknown := sorted(set(arguments) - set(known)):
            raise ValueError(f"unknown model arguments: {', '.join(unknown)}; there are: {', '.join(known)}")
        return cls(**{name: _READERS[name](name, value) for name, value in arguments.items()})

    def to_arguments(self) -> str:
        """The `--model_args` for these settings, without defaults."""
        return ",".join(
            f"{field.name}={_written(getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        )

    @property
    def compression(self) -> Compression:
        return Compression(
            self.method,
            self.retention_ratio,
            self.layout,
            score=self.score,
            budget=self.budget,
            selection=self.selection,
            parameters=self.parameters or {},
            quotas_only=self.quotas_only,
        )

    @property
    def llm_pruning(self) -> Pruning | None:
        if self.pruning is None:
            return None
        return Pruning(self.pruning, self.pruning_ratio, self.pruning_parameters or {})


Reader = Callable[[str, Argument], Any]


def _text(name: str, value: Argument) -> str:
    return str(value)


def _number(name: str, value: Argument) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}; a number is needed")
    return float(value)


def _integer(name: str, value: Argument) -> int:
    number = _number(name, value)
    if number != int(number):
        raise ValueError(f"{name} is {value}; a whole number is needed")
    return int(number)


def _boolean(name: str, value: Argument) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; true or false is needed")
    return value


def _one_of(choices: tuple[str, ...]) -> Reader:
    def read(name: str, value: Argument) -> str:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; {', '.join(choices)} exist")
        return str(value)

    return read


def _list(name: str, value: Argument) -> tuple[str, ...]:
    return tuple(part for part in str(value).split(SEPARATOR) if part)


def _mapping(name: str, value: Argument) -> dict[str, float]:
    """Parse `tau=10;alpha=0.5` to numbers by name."""
    found: dict[str, float] = {}
    for part in _list(name, value):
        key, equals, number = part.partition("=")
        try:
            found[key] = float(number)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise ValueError(f"{name} has the part {part!r}; NAME=NUMBER is needed, with {SEPARATOR!r} between several")
    return found


_READERS: Mapping[str, Reader] = {
    "encoder": _list,
    "method": _text,
    "retention_ratio": _number,
    "score": _text,
    "budget": _text,
    "selection": _text,
    "layout": _one_of(get_args(Layout)),
    "parameters": _mapping,
    "quotas_only": _boolean,
    "pruning": _text,
    "pruning_ratio": _number,
    "pruning_parameters": _mapping,
    "position_ids": _one_of(get_args(PositionIds)),
    "data_type": _one_of(get_args(DataTypeName)),
    "prompt": _one_of(get_args(PromptForm)),
    "stop": _one_of(get_args(Stops)),
    "seed": _integer,
    "concurrency": _integer,
    "max_images": _integer,
    "timeout": _number,
    "tokens_file": lambda name, value: Path(str(value)),
    "model": _text,
}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return SEPARATOR.join(value)
    if isinstance(value, Mapping):
        return SEPARATOR.join(f"{name}={number:g}" for name, number in value.items())
    return str(value)
