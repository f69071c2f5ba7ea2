"""The table of pruning methods, and `compose`, which resolves and checks a request's pruning options."""

from collections.abc import Mapping

from visionsplit.errors import InvalidPruningError
from visionsplit.options.parameters import listed, quoted, with_defaults
from visionsplit.options.prefill import Pruning

from llm_service.pruning.base import ComposedPruning, PruningMethod, Settings
from llm_service.pruning.fastv import FASTV
from llm_service.pruning.pyramiddrop import PYRAMIDDROP
from llm_service.pruning.sparsevlm import SPARSEVLM

PRUNING_METHODS: Mapping[str, PruningMethod] = {method.name: method for method in (FASTV, PYRAMIDDROP, SPARSEVLM)}


def compose(asked: Pruning, num_layers: int, *, quotas: bool = False) -> ComposedPruning:
    """Resolve a request's method and check its numbers.

    Args:
        asked: the requested options.
        num_layers: the depth of the language model.
        quotas: whether images come with quotas, which then decide the counts; retention_ratio may be left out.

    Raises:
        InvalidPruningError: an unknown method or parameter, a value out of range or unreachable in a model of this
            depth, or quotas for a method that does not support them; the message lists the alternatives.
    """
    if asked.method not in PRUNING_METHODS:
        raise InvalidPruningError(
            f"unknown pruning method {quoted(asked.method)}; there are: {listed(PRUNING_METHODS)}"
        )
    method = PRUNING_METHODS[asked.method]
    ratio = asked.retention_ratio
    if ratio is not None and not 0 < ratio <= 1:  # also catches NaN
        raise InvalidPruningError(f"retention_ratio is {ratio}; it must be in (0, 1]")
    if quotas and not method.takes_quotas:
        taking = listed(name for name, other in PRUNING_METHODS.items() if other.takes_quotas)
        raise InvalidPruningError(f"method {method.name!r} takes no quotas; these do: {taking}")
    parameters = with_defaults(
        asked.parameters, method.parameters, owner=f"method {method.name!r}", error=InvalidPruningError
    )
    return method.build(Settings(num_layers, ratio, parameters, frozenset(asked.parameters), quotas))
