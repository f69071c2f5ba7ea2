"""What a call may ask for: how to choose tokens, how the language model reads them, and how to decode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from visionsplit import grid
from visionsplit.errors import InvalidSamplingError
from visionsplit.options.compression_defaults import DEFAULT_METHOD, KEEP_ALL
from visionsplit.v1 import generation_pb2, vision_tokens_pb2
from visionsplit.wire import vision_tokens
from visionsplit.wire.tensors import DataType

Layout = Literal["spatial", "reference"]
DataTypeName = Literal["float32", "float16", "bfloat16", "int8"]
PositionIds = Literal["renumbered", "original"]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
DATA_TYPES: tuple[DataTypeName, ...] = get_args(DataTypeName)
POSITION_IDS: tuple[PositionIds, ...] = get_args(PositionIds)

_OFF = -1  # by which other libraries' callers say that an option is not used


@dataclass(frozen=True)
class Compression:
    """Which vision tokens an image keeps. `Client.encoder_info()` lists the names that the encoder knows.

    The method sets score, budget, selection and merging; those given here replace its own. The encoder refuses unknown
    names and a ratio outside (0, 1] with `InvalidCompressionError`.
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
        layout_to_proto(self.layout)
        _check_numbers(self.parameters)

    @classmethod
    def none(cls, layout: Layout = "spatial") -> "Compression":
        """Keep every token."""
        return cls(method=KEEP_ALL, layout=layout)

    def to_proto(self) -> vision_tokens_pb2.Compression:
        return vision_tokens_pb2.Compression(
            method=self.method,
            retention_ratio=self.retention_ratio,
            layout=layout_to_proto(self.layout),
            score=self.score,
            budget=self.budget,
            selection=self.selection,
            merging=self.merging,
            parameters=self.parameters,
            quotas_only=self.quotas_only,
            guidance=self.guidance,
        )

    @classmethod
    def from_proto(cls, message: vision_tokens_pb2.Compression) -> "Compression":
        return cls(
            method=message.method,
            retention_ratio=message.retention_ratio if message.HasField("retention_ratio") else None,
            layout=layout_from_proto(message.layout),
            score=message.score if message.HasField("score") else None,
            budget=message.budget if message.HasField("budget") else None,
            selection=message.selection if message.HasField("selection") else None,
            merging=message.merging if message.HasField("merging") else None,
            parameters=dict(message.parameters),
            quotas_only=message.quotas_only,
            guidance=message.guidance if message.HasField("guidance") else None,
        )


@dataclass(frozen=True)
class Pruning:
    """Which vision tokens the language model drops between its layers. `Client.llm_info()` lists the methods.

    It may follow any compression. With `Compression.quotas_only` it keeps of each tile as many tokens as the
    compression would, chosen by its own score. Nothing is made up on this side: the LLM service refuses unknown names
    and values out of range with `InvalidPruningError`.
    """

    method: str
    retention_ratio: float | None = None  # share of the vision tokens to keep, in (0, 1]; None: as published
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_numbers(self.parameters)

    def to_proto(self) -> generation_pb2.Pruning:
        return generation_pb2.Pruning(
            method=self.method, retention_ratio=self.retention_ratio, parameters=self.parameters
        )


@dataclass(frozen=True)
class Sampling:
    """How the answer is decoded. None leaves the choice to the LLM service, which decodes greedily.

    Raises:
        InvalidSamplingError: a count or seed is too small or too large for the protocol. Other ranges are the LLM
            service's to check; it refuses with the same class.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None  # 0 decodes greedily
    top_p: float | None = None  # in (0, 1]
    top_k: int | None = None  # 0 keeps all, and so does -1
    seed: int | None = None  # the same seed and request give the same text; -1 means no seed
    stop: Sequence[str] = ()  # the text ends before the first of these
    repetition_penalty: float | None = None  # 1 changes nothing

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise TypeError("stop is a list of strings, not one string")
        _check_range("max_new_tokens", self.max_new_tokens, 1, 2**32 - 1)
        _check_range("top_k", self.top_k, _OFF, 2**32 - 1)
        _check_range("seed", self.seed, _OFF, 2**64 - 1)

    def to_proto(self) -> generation_pb2.Sampling:
        return generation_pb2.Sampling(
            max_new_tokens=self.max_new_tokens or 0,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=0 if self.top_k == _OFF else self.top_k,
            seed=None if self.seed == _OFF else self.seed,
            stop=self.stop,
            repetition_penalty=self.repetition_penalty,
        )


def layout_from_proto(number: int) -> Layout:
    """Raises InvalidRequestError for a layout this version does not know."""
    return vision_tokens.layout_from_proto(number).value


def layout_to_proto(layout: str) -> "vision_tokens_pb2.Layout.ValueType":
    """Raises ValueError for an unknown name."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is unknown; {', '.join(LAYOUTS)} exist")
    return vision_tokens.layout_to_proto(grid.Layout(layout))


def position_ids_to_proto(name: PositionIds) -> "generation_pb2.PositionIds.ValueType":
    """Raises ValueError for an unknown name."""
    numbers: dict[PositionIds, generation_pb2.PositionIds.ValueType] = {
        "renumbered": generation_pb2.POSITION_IDS_RENUMBERED,
        "original": generation_pb2.POSITION_IDS_ORIGINAL,
    }
    if name not in numbers:
        raise ValueError(f"position ids {name!r} are unknown; {', '.join(POSITION_IDS)} exist")
    return numbers[name]


def prefill_to_proto(pruning: Pruning | None, position_ids: PositionIds | None) -> generation_pb2.Prefill | None:
    """None where nothing is asked for.

    Raises:
        ValueError: an unknown name of position ids.
    """
    if pruning is None and position_ids is None:
        return None
    return generation_pb2.Prefill(
        pruning=None if pruning is None else pruning.to_proto(),
        position_ids=position_ids_to_proto(position_ids or "renumbered"),
    )


def data_type_from_name(name: DataTypeName) -> DataType:
    """Raises ValueError for an unknown name."""
    if name not in DATA_TYPES:
        raise ValueError(f"data type {name!r} is unknown; {', '.join(DATA_TYPES)} exist")
    return DataType[name.upper()]


def data_type_name(data_type: DataType) -> DataTypeName:
    names: dict[DataType, DataTypeName] = {data_type_from_name(name): name for name in DATA_TYPES}
    return names[data_type]


def _check_numbers(parameters: Mapping[str, float]) -> None:
    """Raises TypeError; whether a number is in its range the services know."""
    for name, value in parameters.items():
        if not isinstance(value, int | float):
            raise TypeError(f"parameter {name!r} is {value!r}; a number is needed")


def _check_range(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise InvalidSamplingError(f"{name} is {value}; it must lie between {low} and {high}")
