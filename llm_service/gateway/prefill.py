"""Checks a request's options for reading vision tokens: pruning between layers, quotas, position ids."""

from dataclasses import dataclass, replace

from visionsplit.errors import InvalidPruningError, InvalidRequestError, InvalidTokensError
from visionsplit.options.layout import Layout
from visionsplit.options.prefill import PositionIds, Prefill, Pruning

from llm_service.gateway.accepted import Accepted
from llm_service.job import LAYERWISE_MODELS
from llm_service.pruning import PRUNING_METHODS, ComposedPruning, compose

Quotas = tuple[int, ...] | None  # how many tokens of each tile of one image pruning keeps


@dataclass(frozen=True)
class CheckedPrefill:
    """How the language model reads one prompt, in the form that a job carries."""

    asked: Pruning | None  # None drops nothing
    pruning: ComposedPruning | None  # `asked` for this model; the first image's quotas decide what it becomes at last
    position_ids: PositionIds

    @classmethod
    def of(cls, asked: Prefill, accepted: Accepted, *, layout: Layout, num_images: int) -> "CheckedPrefill":
        """Check a request's options; the images' quotas arrive later.

        Raises:
            InvalidPruningError: an unknown pruning method or parameter, or a value out of its range.
            InvalidRequestError: position ids that the layout does not have, or a language model that can do neither.
        """
        pruning = None
        if asked.pruning is not None:
            method = PRUNING_METHODS.get(asked.pruning.method)
            may_get_quotas = num_images > 0 and method is not None and method.takes_quotas
            pruning = compose(asked.pruning, accepted.num_layers, quotas=may_get_quotas)
        if asked.position_ids == "original" and layout != "spatial":
            raise InvalidRequestError(
                f"original position ids need the spatial layout; in the {layout} layout "
                "tokens do not stand where they were cut"
            )
        checked = cls(asked.pruning, pruning, asked.position_ids)
        if checked.layer_by_layer and not accepted.takes_layers_apart:
            raise InvalidRequestError(_why_not(accepted))
        return checked

    @property
    def layer_by_layer(self) -> bool:
        """Whether the layerwise engine has to serve the request."""
        return self.asked is not None or self.position_ids == "original"

    def with_quotas(self, images: dict[int, Quotas]) -> "CheckedPrefill":
        """The same with the quotas of the images that have arrived so far, by image index in the order of arrival.

        There is at least one image. All but the last have been checked before; the first decides whether the pruning
        goes by quotas.

        Raises:
            InvalidPruningError: quotas and nothing that takes them, or a pruning that needs quotas or a ratio.
            InvalidTokensError: some images have quotas and others have not.
        """
        (first, firsts_quotas), (index, quotas) = next(iter(images.items())), next(reversed(images.items()))
        if (quotas is None) is not (firsts_quotas is None):
            given, missing = (first, index) if quotas is None else (index, first)
            raise InvalidTokensError(f"image {given} has quotas and image {missing} has none; all need them, or none")
        if self.asked is None or self.pruning is None:
            if quotas is not None:
                raise InvalidPruningError(
                    f"image {index} has quotas for pruning in the language model; the request asks for no pruning"
                )
            return self
        if len(images) > 1:
            return self
        return replace(self, pruning=compose(self.asked, self.pruning.num_layers, quotas=quotas is not None))


def _why_not(accepted: Accepted) -> str:
    """Why the service can neither prune between layers nor keep original position ids."""
    if accepted.model_type not in LAYERWISE_MODELS:
        return (
            f"pruning and original position ids need a language model of type {', '.join(LAYERWISE_MODELS)}; "
            f"this one is {accepted.model_type}"
        )
    return (
        f"pruning and original position ids need a service that was started with --engine transformers; this one "
        f"decodes with {accepted.engine}, which runs all layers as one"
    )
