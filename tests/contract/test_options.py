"""Every option is declared once: its class and its message have the same fields, and few files name it."""

import ast
import dataclasses
import math

import pytest
from visionsplit.errors import InvalidSamplingError
from visionsplit.options.compression import Compression
from visionsplit.options.data_types import DATA_TYPES, DataType
from visionsplit.options.layout import LAYOUTS
from visionsplit.options.messages import (
    compression_from_proto,
    compression_to_proto,
    data_type_from_proto,
    data_type_to_proto,
    layout_from_proto,
    layout_to_proto,
    prefill_from_proto,
    prefill_to_proto,
    sampling_from_proto,
    sampling_to_proto,
)
from visionsplit.options.prefill import POSITION_IDS, Prefill, Pruning
from visionsplit.options.sampling import ResolvedSampling, Sampling
from visionsplit.v1 import generation_pb2, tensor_pb2, vision_tokens_pb2

from tests.conftest import ROOT

_PRODUCT = ("proto/visionsplit", "encoder_service", "llm_service", "client")
# In these the word means what the thumbnail says about the crops.
_THUMBNAILS = {f"encoder_service/compression/{name}.py" for name in ("base", "plan", "scores")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Compression, vision_tokens_pb2.Compression),
        (Pruning, generation_pb2.Pruning),
        (Prefill, generation_pb2.Prefill),
        (Sampling, generation_pb2.Sampling),
    ],
    ids=["compression", "pruning", "prefill", "sampling"],
)
def test_class_and_message_have_the_same_fields(options, message) -> None:
    assert {field.name for field in dataclasses.fields(options)} == set(message.DESCRIPTOR.fields_by_name)


def test_every_choice_of_a_sampling_is_made_when_it_is_resolved() -> None:
    names = [field.name for field in dataclasses.fields(Sampling)]
    assert [field.name for field in dataclasses.fields(ResolvedSampling)] == names


@pytest.mark.parametrize(
    ("asked", "to_proto", "from_proto"),
    [
        (
            Compression("m", 0.5, "reference", "s", "b", "p", "g", {"tau": 2.0}, quotas_only=True, guidance="a ball"),
            compression_to_proto,
            compression_from_proto,
        ),
        (Compression("m"), compression_to_proto, compression_from_proto),
        (Prefill(Pruning("fastv", 0.5, {"layer": 3.0}), "original"), prefill_to_proto, prefill_from_proto),
        (Prefill(Pruning("fastv")), prefill_to_proto, prefill_from_proto),
        (Prefill(), prefill_to_proto, prefill_from_proto),
        (Sampling(), sampling_to_proto, sampling_from_proto),
        (Sampling(7, 0.5, 0.25, 3, 0, ("\n", "end"), 2.0), sampling_to_proto, sampling_from_proto),
    ],
    ids=["compression", "method alone", "prefill", "pruning", "no prefill", "no sampling", "sampling"],
)
def test_options_survive_the_wire(asked, to_proto, from_proto) -> None:
    message = to_proto(asked)
    assert from_proto(type(message).FromString(message.SerializeToString())) == asked


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Sampling(temperature=-0.1), "temperature -0.1 is not 0 or more"),
        (Sampling(temperature=math.nan), "temperature nan"),
        (Sampling(top_p=0), r"top_p 0 is not in \(0, 1\]"),
        (Sampling(repetition_penalty=1000), r"repetition_penalty 1000 is not in \[0.01, 100\]"),
        (Sampling(stop=[""]), "stop string of 0 characters"),
        (Sampling(stop=["x"] * 17), "17 stop strings"),
    ],
    ids=repr,
)
def test_a_sampling_out_of_range_is_not_resolved(asked, says) -> None:
    with pytest.raises(InvalidSamplingError, match=says):
        asked.resolve(max_new_tokens=1, repetition_penalty=1.0)


def test_names_are_those_of_the_protocols_enumerations() -> None:
    assert [layout_from_proto(layout_to_proto(name)) for name in LAYOUTS] == list(LAYOUTS)
    assert len(LAYOUTS) == len(vision_tokens_pb2.Layout.values()) - 1
    assert len(POSITION_IDS) == len(generation_pb2.PositionIds.values()) - 1
    assert [data_type_from_proto(data_type_to_proto(one)) for one in DataType] == list(DataType)
    assert [one.value for one in DataType] == list(DATA_TYPES)
    assert len(DATA_TYPES) == len(tensor_pb2.DataType.values()) - 1


def test_an_option_is_named_in_at_most_seven_files() -> None:
    """docs/architecture.md promises this. Generated stubs, tests and prose are left out."""
    naming: dict[str, set[str]] = {option: set() for option in ("guidance", "top_p", "temperature")}
    files = [file for place in _PRODUCT for file in (ROOT / place).rglob("*") if file.suffix in (".py", ".proto")]
    for file in files:
        text, name = file.read_text(), str(file.relative_to(ROOT))
        for option in naming if "_pb2" not in name else ():
            if _names(text, option, proto=file.suffix == ".proto"):
                naming[option].add(name)
    naming["guidance"] -= _THUMBNAILS
    assert all(2 <= len(names) <= 7 for names in naming.values()), naming


def _names(text: str, option: str, *, proto: bool) -> bool:
    """Whether a file's code uses the option: as a name, an attribute, an argument, a key or a command's option."""
    dashed = f"--{option.replace('_', '-')}"
    if option not in text and dashed not in text:
        return False
    if proto:
        return f" {option} = " in text
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word) | ast.arg(arg=word) | ast.keyword(arg=word):
                if word == option:
                    return True
            case ast.Constant(value=str(word)) if word in (option, dashed):
                return True
    return False
