"""Checks how a request wants its vision tokens read: pruning between layers, quotas, position ids."""

from dataclasses import dataclass

from visionsplit.errors import InvalidPruningError, InvalidRequestError, InvalidTokensError
from visionsplit.grid import Layout
from visionsplit.v1 import choice_pb2, generation_pb2

from llm_service.engines.layerwise.weight_sharing import SUPPORTED
from llm_service.gateway.accepted import Accepted
from llm_service.job import PositionIds, PruningSpec
from llm_service.pruning import PRUNING_METHODS, compose

Quotas = tuple[int, ...] | None  # one image's tokens per tile that pruning is to keep


@dataclass(frozen=True)
class Prefill:
    """How the language model reads one prompt."""

    pruning: PruningSpec | None  # None drops nothing
    position_ids: PositionIds

    @property
    def layer_by_layer(self) -> bool:
        """Whether the layerwise engine has to serve the request."""
        return self.pruning is not None or self.position_ids is not PositionIds.RENUMBERED

    def check_quotas(self, images: dict[int, Quotas], *, num_layers: int) -> None:
        """Check the quotas of the images that have arrived so far, by image index in the order of their arrival.

        There is at least one image. All but the last have been checked before.

        Raises:
            InvalidPruningError: quotas and nothing that takes them, or a pruning that does not do without.
            InvalidTokensError: some images have quotas and others have not.
        """
        (first, firsts_quotas), (index, quotas) = next(iter(images.items())), next(reversed(images.items()))
        if (quotas is None) is not (firsts_quotas is None):
            given, missing = (first, index) if quotas is None else (index, first)
            raise InvalidTokensError(f"image {given} has quotas and image {missing} has none; all need them, or none")
        if self.pruning is not None:
            compose(self.pruning, num_layers, quotas=quotas is not None)
        elif quotas is not None:
            raise InvalidPruningError(
                f"image {index} has quotas for pruning in the language model; the request asks for no pruning"
            )


def prefill_from_proto(
    message: generation_pb2.Prefill, accepted: Accepted, *, layout: Layout, num_images: int
) -> Prefill:
    """A request's wishes; the images' quotas are yet to come.

    Raises:
        InvalidPruningError: an unknown pruning method or parameter, or a value out of its range.
        InvalidRequestError: position ids that this version does not know, or that the layout does not have, or a
            language model that can do neither.
    """
    pruning = _pruning_from_proto(message.pruning) if message.HasField("pruning") else None
    if pruning is not None:
        method = PRUNING_METHODS.get(pruning.method)
        may_get_quotas = num_images > 0 and method is not None and method.takes_quotas
        compose(pruning, accepted.num_layers, quotas=may_get_quotas)
    position_ids = _position_ids_from_proto(message.position_ids)
    if position_ids is PositionIds.ORIGINAL and layout is not Layout.SPATIAL:
        raise InvalidRequestError(
            f"original position ids need the {Layout.SPATIAL.value} layout; in the {layout.value} layout "
            "tokens do not stand where they were cut"
        )
    if not accepted.takes_layers_apart and (pruning is not None or position_ids is PositionIds.ORIGINAL):
        raise InvalidRequestError(
            f"pruning and original position ids need a language model of type {', '.join(SUPPORTED)}; "
            f"this one is {accepted.model_type}"
        )
    return Prefill(pruning, position_ids)


def pruning_methods_to_proto(accepted: Accepted) -> list[choice_pb2.NamedChoice]:
    """The methods that a request may name."""
    if not accepted.takes_layers_apart:
        return []
    return [
        choice_pb2.NamedChoice(
            name=method.name,
            description=method.description,
            parameters={name: parameter.default for name, parameter in method.parameters.items()},
        )
        for method in PRUNING_METHODS.values()
    ]


def _pruning_from_proto(message: generation_pb2.Pruning) -> PruningSpec:
    # A plain dict: what the message holds cannot be pickled, and a job may go to another process.
    return PruningSpec(
        method=message.method,
        retention_ratio=message.retention_ratio if message.HasField("retention_ratio") else None,
        parameters=dict(message.parameters),
    )


def _position_ids_from_proto(number: int) -> PositionIds:
    if number in (generation_pb2.POSITION_IDS_UNSPECIFIED, generation_pb2.POSITION_IDS_RENUMBERED):
        return PositionIds.RENUMBERED
    if number == generation_pb2.POSITION_IDS_ORIGINAL:
        return PositionIds.ORIGINAL
    known = ", ".join(one.value for one in PositionIds)
    raise InvalidRequestError(f"position ids {number} are not known here; there are: {known}")
