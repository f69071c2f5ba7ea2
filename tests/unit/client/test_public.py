"""The package's public names, and the modules that it must not import."""

import json
import subprocess
import sys

import pytest
import visionsplit_client
from visionsplit import errors
from visionsplit.options.messages import compression_from_proto, compression_to_proto, sampling_to_proto
from visionsplit_client import Compression, Sampling

PUBLIC = {
    *("Client", "AsyncClient", "EventStream", "AsyncEventStream"),
    *("Compression", "Pruning", "PositionIds", "Sampling", "Layout", "DataType", "DataTypeName"),
    *("Prompt", "Message", "ImagePart", "ImageSource"),
    *("Timeouts", "Retries", "Limits", "Transport", "AsyncTransport", "GrpcTransport", "AsyncGrpcTransport"),
    *("Generation", "GenerationEvent", "ImageEncoded", "TextDelta", "Finished", "FinishReason"),
    *("ImageSummary", "CacheUse", "Usage", "EncodeTimings", "LlmTimings"),
    *("EncodedImage", "EncodeEvent", "EncodeStarted", "TokensArrived", "Encoded"),
    *("VisionTokens", "TokenTensor", "TileGrid", "Region"),
    *("EncoderInfo", "LlmInfo", "NamedChoice", "VisionFormat", "Health", "HealthStatus"),
    *("ClientSecurity", "ClientTls", "BearerToken", "CredentialsError"),
    *("read_image", "DEFAULT_ENCODER"),
    *("ImageFetchError", "UnreachableError", *errors.__all__),
}


def test_public_names():
    assert set(visionsplit_client.__all__) == PUBLIC
    for name in PUBLIC:
        getattr(visionsplit_client, name)


def test_errors_are_the_services_own_classes():
    for name in errors.__all__:
        assert getattr(visionsplit_client, name) is getattr(errors, name)


def test_neither_sdk_nor_tool_loads_a_service_or_its_libraries():
    code = "import json, sys, visionsplit_client, visionsplit_cli; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    loaded = {name.partition(".")[0] for name in json.loads(output)}
    assert not loaded & {"torch", "transformers", "ray", "safetensors", "encoder_service", "llm_service"}
    assert "grpc" in loaded


def test_the_sdk_needs_no_module_that_only_unix_has():
    hide = "import sys; sys.modules.update(dict.fromkeys(('resource', 'fcntl', 'pwd', 'grp', 'termios')))"
    subprocess.run([sys.executable, "-c", f"{hide}; import visionsplit_client, visionsplit_cli"], check=True)


def test_a_ratio_that_was_not_given_is_not_made_up():
    for compression in (Compression(), Compression("none")):
        assert compression.retention_ratio is None
        assert not compression_to_proto(compression).HasField("retention_ratio")
    assert Compression("none") == Compression.none()


@pytest.mark.parametrize(
    "asked",
    [
        Compression(),
        Compression.none("reference"),
        Compression(score="local", budget="b"),
        Compression(selection="s", merging="m"),
        Compression(retention_ratio=0.1, quotas_only=True),
    ],
)
def test_compression_survives_the_wire(asked):
    assert compression_from_proto(compression_to_proto(asked)) == asked


def test_minus_one_is_off():
    asked = sampling_to_proto(Sampling(top_k=-1, seed=-1))
    assert (asked.top_k, asked.HasField("seed")) == (0, False)
    assert sampling_to_proto(Sampling(top_k=0, seed=0)).HasField("seed")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Compression(layout="diagonal"), ValueError),
        (lambda: Sampling(max_new_tokens=0), errors.InvalidSamplingError),
        (lambda: Sampling(seed=-2), errors.InvalidSamplingError),
        (lambda: Sampling(top_k=2**32), errors.InvalidSamplingError),
        (lambda: Sampling(stop="end"), TypeError),
    ],
)
def test_wrong_options_are_refused_here(make, error):
    with pytest.raises(error):
        make()
