"""Parsing a request's pruning, quotas and position ids, and refusing invalid ones."""

import pickle
from dataclasses import replace

import pytest
from visionsplit.errors import InvalidPruningError, InvalidRequestError, InvalidTokensError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.options.layout import Layout
from visionsplit.options.messages import prefill_from_proto
from visionsplit.options.prefill import PositionIds, Pruning
from visionsplit.v1 import generation_pb2 as pb

from llm_service.config import Limits
from llm_service.gateway.accepted import Accepted
from llm_service.gateway.messages import pruning_methods_to_proto
from llm_service.gateway.prefill import CheckedPrefill, Quotas
from llm_service.pruning import PRUNING_METHODS, compose
from tests.conftest import ROOT

LAYERS = 8
CHECKPOINT = Checkpoint(str(ROOT / "models" / "visionsplit-mini"))
ACCEPTED = Accepted(
    family=CHECKPOINT.family,
    settings=CHECKPOINT.settings,
    cutting=CHECKPOINT.cutting(),
    encoder_fingerprint="f" * 32,
    context_length=1024,
    max_places=1024,
    model_type="llama",
    num_layers=LAYERS,
    limits=Limits(),
    default_repetition_penalty=1.0,
    engine="transformers-continuous-batching",
    takes_layers_apart=True,
)
ANOTHER = replace(ACCEPTED, model_type="mamba", takes_layers_apart=False)
VLLM = replace(ACCEPTED, engine="vllm", takes_layers_apart=False)


def read(message: pb.Prefill, *, layout: Layout = "spatial", num_images: int = 1, accepted: Accepted = ACCEPTED):
    return CheckedPrefill.of(prefill_from_proto(message), accepted, layout=layout, num_images=num_images)


def pruning(method: str, ratio: float | None = None, **parameters: float) -> pb.Prefill:
    return pb.Prefill(pruning=pb.Pruning(method=method, retention_ratio=ratio, parameters=parameters))


def test_nothing_asked_is_no_pruning_and_no_gaps() -> None:
    assert read(pb.Prefill()) == CheckedPrefill(None, None, "renumbered")


@pytest.mark.parametrize(("number", "meaning"), [(0, "renumbered"), (1, "renumbered"), (2, "original")])
def test_position_ids(number: int, meaning: PositionIds) -> None:
    assert read(pb.Prefill(position_ids=number)).position_ids == meaning


def test_a_pruning_becomes_what_a_job_can_carry_to_another_process() -> None:
    read_back = read(pruning("fastv", 0.5, layer=3))
    assert read_back.asked == Pruning("fastv", 0.5, {"layer": 3.0})
    assert read_back.pruning == compose(Pruning("fastv", 0.5, {"layer": 3.0}), LAYERS, quotas=True)
    assert read_back.with_quotas({0: None}).pruning == compose(Pruning("fastv", 0.5, {"layer": 3.0}), LAYERS)
    assert pickle.loads(pickle.dumps(read_back)) == read_back
    assert read(pruning("pyramiddrop")).asked == Pruning("pyramiddrop", None, {})


def test_position_ids_of_a_newer_client_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"position ids 9 are not known here; .* renumbered, original"):
        read(pb.Prefill(position_ids=9))


@pytest.mark.parametrize("num_images", [0, 1])
def test_original_position_ids_need_the_spatial_layout(num_images: int) -> None:
    wish = pb.Prefill(position_ids=pb.POSITION_IDS_ORIGINAL)
    with pytest.raises(InvalidRequestError, match="original position ids need the spatial layout"):
        read(wish, layout="reference", num_images=num_images)


@pytest.mark.parametrize("wish", [pruning("fastv", 0.5), pb.Prefill(position_ids=pb.POSITION_IDS_ORIGINAL)], ids=str)
def test_a_language_model_whose_layers_are_not_known_reads_as_ever(wish: pb.Prefill) -> None:
    with pytest.raises(InvalidRequestError, match=r"need a language model of type llama, .*; this one is mamba"):
        read(wish, accepted=ANOTHER)
    assert read(pb.Prefill(), accepted=ANOTHER) == CheckedPrefill(None, None, "renumbered")
    with pytest.raises(InvalidRequestError, match=r"started with --engine transformers; this one decodes with vllm"):
        read(wish, accepted=VLLM)
    assert read(pb.Prefill(), accepted=VLLM) == CheckedPrefill(None, None, "renumbered")


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (pruning("squeeze", 0.5), "unknown pruning method 'squeeze'; there are: fastv"),
        (pruning("", 0.5), "unknown pruning method ''"),
        (pruning("fastv", 0.0), "retention_ratio is 0.0"),
        (pruning("fastv", 1.5), "retention_ratio is 1.5"),
        (pruning("fastv", float("nan")), "retention_ratio is nan"),
        (pruning("fastv", 0.5, layers=2), "unknown parameter 'layers'; .* layer"),
        (pruning("fastv", 0.5, layer=1.5), "parameter 'layer' is 1.5"),
        (pruning("fastv", 0.5, layer=LAYERS), f"below the model's {LAYERS} layers"),
    ],
)
def test_a_wrong_pruning_is_refused_with_the_header(wish: pb.Prefill, says: str) -> None:
    with pytest.raises(InvalidPruningError, match=says):
        read(wish)


def test_a_method_that_needs_a_ratio_waits_for_the_quotas_that_would_replace_it() -> None:
    wish = read(pruning("fastv"))
    assert wish.with_quotas({0: (3, 1)}).pruning == compose(Pruning("fastv"), LAYERS, quotas=True)
    with pytest.raises(InvalidPruningError, match="method 'fastv' needs a retention_ratio"):
        wish.with_quotas({0: None})
    with pytest.raises(InvalidPruningError, match="method 'fastv' needs a retention_ratio"):
        read(pruning("fastv"), num_images=0)


@pytest.mark.parametrize("images", [[None], [None, None], [(1, 2)], [(1, 2), (0, 3, 4)]], ids=str)
def test_good_quotas(images: list[Quotas]) -> None:
    wish = read(pruning("fastv", 0.5))
    for count in range(1, len(images) + 1):
        wish = wish.with_quotas(dict(enumerate(images[:count])))
    assert wish.pruning == compose(Pruning("fastv", 0.5), LAYERS, quotas=images[0] is not None)


def test_quotas_without_pruning_are_refused() -> None:
    nothing = CheckedPrefill(None, None, "renumbered")
    nothing.with_quotas({0: None, 1: None})
    with pytest.raises(InvalidPruningError, match=r"image 0 has quotas .* the request asks for no pruning"):
        nothing.with_quotas({0: (1,)})


def test_quotas_for_a_method_that_takes_none_are_refused() -> None:
    wish = read(pruning("pyramiddrop"))
    with pytest.raises(InvalidPruningError, match="'pyramiddrop' takes no quotas; these do: fastv"):
        wish.with_quotas({0: (1,)})


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ({0: (1,), 1: None}, "image 0 has quotas and image 1 has none"),
        ({0: None, 1: None, 2: (1,)}, "image 2 has quotas and image 0 has none"),
        ({2: (1,), 0: None}, "image 2 has quotas and image 0 has none"),
    ],
)
@pytest.mark.parametrize("wish", [pruning("fastv", 0.5), pb.Prefill()], ids=["pruning", "none"])
def test_images_that_disagree_are_refused(images: dict[int, Quotas], says: str, wish: pb.Prefill) -> None:
    with pytest.raises(InvalidTokensError, match=says):
        read(wish).with_quotas(images)


def test_the_methods_as_the_service_lists_them() -> None:
    listed = {choice.name: choice for choice in pruning_methods_to_proto(supported=ACCEPTED.takes_layers_apart)}
    assert listed.keys() == PRUNING_METHODS.keys() >= {"fastv", "pyramiddrop", "sparsevlm"}
    assert dict(listed["fastv"].parameters) == {"layer": 2.0}
    assert pruning_methods_to_proto(supported=ANOTHER.takes_layers_apart) == []
    assert all(choice.description.endswith(".") for choice in listed.values())
