"""What is measured: which contestant answers at which share of the tokens under which load, and in which order."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PROPORTIONED = "proportioned"  # random weights in LLaVA-NeXT's proportions: how fast?
SHIPPED = "shipped"  # the shipped model: how many right answers at the same time?
VLLM = "vllm"
GENERATE = "generate"
ENGINES = ("transformers", "vllm")  # of visionsplit's LLM service
CONTESTANTS = (VLLM, GENERATE, *(f"visionsplit-{engine}" for engine in ENGINES))
HEADLINE_CALLERS = 16
UNCOMPRESSED = "none"


@dataclass(frozen=True)
class Condition:
    """What is done to the vision tokens."""

    method: str = UNCOMPRESSED
    ratio: float = 1.0


@dataclass(frozen=True)
class Load:
    """How questions come: from `callers` that each ask again after an answer, or at a rate, answered or not."""

    callers: int | None = None
    requests: int = 0  # of all callers together
    rate_factor: float | None = None  # of the first contestant's images/s at HEADLINE_CALLERS, uncompressed
    seconds: float = 0.0  # in which questions come at a rate

    @property
    def name(self) -> str:
        return f"callers{self.callers}" if self.callers is not None else f"rate{self.rate_factor:g}"


@dataclass(frozen=True)
class Part:
    """One measurement."""

    model: str
    contestant: str
    condition: Condition
    load: Load
    repetition: int  # 1, 2, ...

    @property
    def name(self) -> str:
        """A file's name, different for every part."""
        condition = f"{self.condition.method}-{self.condition.ratio:g}"
        return "_".join((self.model, self.contestant, condition, self.load.name, str(self.repetition)))

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Part":
        nested = {"condition": Condition(**plain["condition"]), "load": Load(**plain["load"])}
        return cls(**{**plain, **nested})


@dataclass(frozen=True)
class Turn:
    """One start of a contestant and everything that it does until it is stopped."""

    model: str
    contestant: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Plan:
    """The choices from which the turns follow."""

    contestants: Sequence[str]
    ratios: Sequence[float]
    methods: Sequence[str]
    repetitions: int
    repeated: Sequence[Load]  # in every repetition
    once: Sequence[Load]  # in the last repetition only
    heavy: Sequence[Load]  # the same, and only at `heavy_ratios`: they take long
    heavy_ratios: Sequence[float]
    questions: int  # that the shipped model answers, 0 leaves it out

    def turns(self) -> Iterator[Turn]:
        """A B A B ..., then the shipped model."""
        for repetition in range(1, self.repetitions + 1):
            for contestant in self.contestants:
                yield Turn(PROPORTIONED, contestant, tuple(self._parts(contestant, repetition)))
        if self.questions:
            load = Load(HEADLINE_CALLERS, self.questions)
            for contestant in self.contestants:
                parts = (Part(SHIPPED, contestant, condition, load, 1) for condition in self._conditions(contestant))
                yield Turn(SHIPPED, contestant, tuple(parts))

    def _parts(self, contestant: str, repetition: int) -> Iterator[Part]:
        last = repetition == self.repetitions
        for condition in self._conditions(contestant):
            loads = list(self.repeated)
            loads += self.once if last else ()
            loads += self.heavy if last and condition.ratio in self.heavy_ratios and contestant != GENERATE else ()
            for load in loads:
                yield Part(PROPORTIONED, contestant, condition, load, repetition)

    def _conditions(self, contestant: str) -> Iterator[Condition]:
        if contestant in (VLLM, GENERATE):
            yield Condition()
            return
        for ratio in self.ratios:
            if ratio == 1.0:
                yield Condition()
            else:
                yield from (Condition(method, ratio) for method in self.methods)
