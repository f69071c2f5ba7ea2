"""Invalid settings are refused in the configuration, with their name and value."""

import json
import subprocess
import sys

import pytest

from llm_service.config import PROGRAM, BackendKind, EngineConfig, EngineKind, Limits, LlmConfig, RayConfig


@pytest.mark.parametrize(
    "make",
    [
        lambda: EngineConfig(page_size=0),
        lambda: EngineConfig(kv_tokens=0),
        lambda: EngineConfig(max_batch_tokens=-1),
        lambda: EngineConfig(max_running=0),
        lambda: EngineConfig(max_waiting=0),
        lambda: EngineConfig(slab_tokens=0),
        lambda: EngineConfig(memory_fraction=0.0),
        lambda: EngineConfig(memory_fraction=80.0),
        lambda: EngineConfig(memory_fraction=float("nan")),
        lambda: EngineConfig(max_virtual_id=2**31),
        lambda: EngineConfig(vllm_options={"enforce_eager": True}),
        lambda: Limits(max_images=0),
        lambda: Limits(max_uploads=0),
        lambda: Limits(default_max_new_tokens=0),
        lambda: Limits(upload_idle_seconds=0.0),
        lambda: RayConfig(max_replicas=2),
        lambda: RayConfig(min_replicas=2),
        lambda: RayConfig(min_replicas=0, max_replicas=2),
        lambda: RayConfig(min_replicas=3, max_replicas=2),
        lambda: RayConfig(num_gpus=-1),
        lambda: RayConfig(max_ongoing_requests=0),
        lambda: RayConfig(application=" "),
        lambda: LlmConfig("m", replicas=0, backend=BackendKind.RAY),
        lambda: LlmConfig("m", replicas=2),
        lambda: LlmConfig("m", ray=RayConfig(min_replicas=1, max_replicas=2)),
        lambda: LlmConfig("m", backend=BackendKind.RAY, replicas=2, ray=RayConfig(min_replicas=1, max_replicas=2)),
        lambda: LlmConfig("m", listen="50052"),
        lambda: LlmConfig("m", listen="127.0.0.1:"),
        lambda: LlmConfig("m", listen="127.0.0.1:65536"),
        lambda: LlmConfig("m", device="gpu"),
        lambda: LlmConfig("m", device="meta"),
        lambda: LlmConfig("m", dtype="int8"),
        lambda: LlmConfig("m", grace_seconds=-1),
    ],
)
def test_refused(make):
    with pytest.raises(ValueError, match=r"\w+ .*"):
        make()


@pytest.mark.parametrize(
    ("max_running", "share", "own"),
    [(64, 0.75, 56), (64, 0.5, 48), (8, 0.75, 7), (4, 0.75, 3), (2, 0.5, 4), (64, 1.0, 128)],
)
def test_a_caller_may_run_nearly_all_requests_of_a_replica(max_running: int, share: float, own: int):
    assert EngineConfig(max_running=max_running, caller_share=share).max_running_of_caller == own


def test_the_text_names_setting_and_value():
    with pytest.raises(ValueError, match=r"memory_fraction is 80.0; .*\(0, 1\]"):
        EngineConfig(memory_fraction=80.0)


def test_the_command_line_reaches_every_part():
    engine = ["--memory-fraction", "0.5", "--kv-tokens", "64"]
    ray = ["--backend", "ray", "--replicas", "3", "--ray-application", "a"]
    config = PROGRAM.read(["--model", "m", *engine, *ray, "--upload-idle", "7", "--max-images", "2"])
    assert (config.replicas, config.engine.memory_fraction, config.engine.kv_tokens) == (3, 0.5, 64)
    assert (config.ray.application, config.limits.upload_idle_seconds, config.limits.max_images) == ("a", 7, 2)
    assert PROGRAM.read(["--model", "m"]) == LlmConfig("m")


@pytest.mark.parametrize(
    ("config", "device", "replicas", "cluster", "expected"),
    [
        (RayConfig(), None, 1, 0, 0),
        (RayConfig(), None, 1, 1, 1),
        (RayConfig(), None, 2, 4, 1),
        (RayConfig(), None, 2, 1, 0.5),
        (RayConfig(), None, 4, 3, 0.5),  # two on one GPU; three quarters of one each would leave one replica without
        (RayConfig(), "cpu", 1, 8, 0),
        (RayConfig(), "cuda", 1, 0, 1),  # the GPU may join the cluster later
        (RayConfig(min_replicas=1, max_replicas=4), None, 1, 1, 1),  # further ones wait for further GPUs
        (RayConfig(min_replicas=2, max_replicas=4), None, 1, 1, 0.5),
        (RayConfig(num_gpus=0), None, 1, 8, 0),
        (RayConfig(num_gpus=0.25), None, 1, 8, 0.25),
    ],
)
def test_replicas_on_ray_use_the_gpus_that_there_are(config, device, replicas, cluster, expected):
    assert config.gpus_per_replica(device, replicas, cluster) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-replicas", "2"],
        ["--backend", "ray", "--min-replicas", "3", "--max-replicas", "2"],
        ["--backend", "ray", "--replicas", "2", "--min-replicas", "1", "--max-replicas", "2"],
        ["--replicas", "2"],
        ["--replicas", "0"],
        ["--memory-fraction", "80"],
        ["--caller-share", "nan"],
        ["--device", "gpu"],
        ["--listen", "nowhere"],
        ["--kv-tokens", "0"],
        ["--gpus-per-replica", "-1"],
        ["--upload-idle", "0"],
        ["--grace", "inf"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_names_the_option(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        PROGRAM.read(["--model", "m", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("visionsplit-llm: ")
    assert arguments[-2] in line


def test_reading_a_command_line_imports_no_pytorch():
    code = (
        "import sys\nfrom llm_service.config import PROGRAM\nPROGRAM.read(['--model', 'm'])\n"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


OPTIONS = {"tensor_parallel_size": 2, "speculative_config": {"method": "ngram"}}


@pytest.mark.parametrize("source", ["option", "environment", "file"])
def test_the_options_of_vllm_are_an_object_wherever_they_come_from(tmp_path, source: str):
    arguments, environment = ["--model", "m", "--engine", "vllm"], {}
    if source == "option":
        arguments += ["--vllm-options", json.dumps(OPTIONS)]
    elif source == "environment":
        environment["VISIONSPLIT_LLM_VLLM_OPTIONS"] = json.dumps(OPTIONS)
    else:
        file = tmp_path / "llm.toml"
        file.write_text(
            "[vllm_options]\ntensor_parallel_size = 2\n[vllm_options.speculative_config]\nmethod = 'ngram'\n"
        )
        arguments += ["--config", str(file)]
    engine = PROGRAM.read(arguments, environment).engine
    assert (engine.kind, engine.vllm_options) == (EngineKind.VLLM, OPTIONS)


@pytest.mark.parametrize("options", ["[1]", "{", "tensor_parallel_size=2"])
def test_options_of_vllm_that_are_no_object_are_refused(options: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        PROGRAM.read(["--model", "m", "--engine", "vllm", "--vllm-options", options], {})
    assert "JSON" in capsys.readouterr().err
