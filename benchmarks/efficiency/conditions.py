"""The rows of a table: every available method at each ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

from visionsplit.errors import InvalidCompressionError, InvalidPruningError
from visionsplit.options.compression import Compression
from visionsplit.options.prefill import Pruning

from benchmarks.efficiency.language import why_no_pruning
from encoder_service.compression import METHODS, compose
from llm_service import pruning

RATIOS = (0.5, 0.25, 0.1)
UNCOMPRESSED = Compression("none")
_ANY = 0.5  # an arbitrary ratio
_GUIDE = "globalcom2"  # its numbers of tokens per tile can guide a method inside the language model


@dataclass(frozen=True)
class Condition:
    """The request to both services for one image."""

    name: str  # of the method
    ratio: float  # requested
    compression: Compression
    pruning: Pruning | None = None


@dataclass(frozen=True)
class Conditions:
    """The rows of one model, and those that it cannot have."""

    rows: tuple[Condition, ...]  # the uncompressed image first, then ratio by ratio
    left_out: tuple[str, ...]  # the reasons


def encoder_methods() -> list[str]:
    """Methods of the encoder except "none" and those that read the prompt: no measured model has a text tower."""
    return [name for name in METHODS if name != "none" and not compose(Compression(name, _ANY)).reads_text]


def known_methods() -> list[str]:
    """Methods of both services, without "none"; "a+b" is b inside the language model with a's quotas per tile."""
    inside = pruning.PRUNING_METHODS.values()
    guided = [f"{_GUIDE}+{method.name}" for method in inside if method.takes_quotas]
    return [*encoder_methods(), *(method.name for method in inside), *guided]


def conditions(num_layers: int, methods: Sequence[str] | None, ratios: Sequence[float]) -> Conditions:
    """The rows for a language model of some depth.

    Args:
        num_layers: the language model's; a shallow one cannot prune inside at every ratio.
        methods: only these, and none; None for all that exist.
        ratios: below 1.

    Raises:
        ValueError: a method does not exist.
    """
    known = known_methods()
    for name in methods or ():
        if name not in known:
            raise ValueError(f"there is no method {name!r} here; there are: {', '.join(known)}")
    rows, left_out = [Condition("none", 1.0, UNCOMPRESSED)], []
    for ratio in ratios:
        for name in known if methods is None else methods:
            try:
                rows.append(_condition(name, ratio, num_layers))
            except (InvalidCompressionError, InvalidPruningError) as error:
                left_out.append(f"{name} at {ratio:.0%}: {error}")
    return Conditions(tuple(rows), tuple(left_out))


def _condition(name: str, ratio: float, num_layers: int) -> Condition:
    if name in METHODS:
        compression = Compression(name, ratio)
        compose(compression)
        return Condition(name, ratio, compression)
    if reason := why_no_pruning():
        raise InvalidPruningError(reason)
    guide, plus, inside = name.rpartition("+")
    if plus:
        compression, spec = Compression(guide, ratio, quotas_only=True), Pruning(inside)
    else:
        compression, spec = UNCOMPRESSED, Pruning(inside, ratio)
    pruning.compose(spec, num_layers, quotas=bool(plus))
    return Condition(name, ratio, compression, spec)
