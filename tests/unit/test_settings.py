"""Settings by options, environment variables and configuration files: which counts, and what is said of mistakes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM

SOURCES = {
    "settings.yaml": "max_images: 2\nmax_calls: 2\nchunk_bytes: 300000\n",
    "settings.toml": "max_images = 2\nmax_calls = 2\nchunk_bytes = 300_000\n",
    "settings.json": json.dumps({"max_images": 2, "max_calls": 2, "chunk_bytes": 300000}),
}


def written(folder: Path, text: str, name: str = "settings.yaml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], environment: dict[str, str]) -> str:
    """The line with which the process ends."""
    with pytest.raises(SystemExit, match="2"):
        ENCODER.read(["--model", "m", *arguments], environment)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("visionsplit-encoder: ")
    return str(line)


@pytest.mark.parametrize("name", SOURCES)
def test_an_option_counts_before_a_variable_before_the_file_before_the_default(tmp_path: Path, name: str):
    file = written(tmp_path, SOURCES[name], name)
    environment = {"VISIONSPLIT_ENCODER_MAX_IMAGES": "3", "VISIONSPLIT_ENCODER_MAX_CALLS": "3"}
    config = ENCODER.read(["--model", "m", "--max-images", "4", "--config", file], environment)
    assert (config.max_images, config.max_calls, config.chunk_bytes, config.image_threads) == (4, 3, 300_000, 4)


def test_lists_and_switches(tmp_path: Path):
    file = written(tmp_path, "model: m\nllm: [a:1, 'b:2,c:3']\nlog_prompts: true\nllm_tls: false\nmetrics: 9051\n")
    config = ENCODER.read([], {"VISIONSPLIT_ENCODER_CONFIG": file, "VISIONSPLIT_ENCODER_LLM_TLS": "true"})
    assert config.llm == ("a:1", "b:2", "c:3")
    assert config.telemetry.log_prompts
    assert config.telemetry.metrics == "9051"
    assert config.llm_security.tls is not None
    replaced = ENCODER.read(["--llm", "d:4"], {"VISIONSPLIT_ENCODER_CONFIG": file})
    assert (replaced.llm, replaced.llm_security.tls) == (("d:4",), None)


def test_an_empty_value_counts_as_not_given_where_the_help_says_so(tmp_path: Path):
    file = written(tmp_path, "retention_ratio: 0.5\nmethod:\n")
    config = ENCODER.read(["--model", "m", "--config", file, "--ratio", ""], {"VISIONSPLIT_ENCODER_METHOD": ""})
    assert (config.default_method, config.retention_ratio) == ("globalcom2-diverse", 0.5)


def test_the_variables_of_kubernetes_and_of_others_are_left_alone():
    links = {"SERVICE_HOST": "10.0.0.1", "PORT": "tcp://10.0.0.1:1", "PORT_50051_TCP_ADDR": "10.0.0.1"}
    environment = {f"VISIONSPLIT_ENCODER_{name}": value for name, value in links.items()}
    environment["VISIONSPLIT_ENCODER_METRICS_SERVICE_PORT_HTTP"] = "1"  # of a Service visionsplit-encoder-metrics
    environment |= {"VISIONSPLIT_TOKEN": "x", "VISIONSPLIT_LLM_MAX_IMAGES": "3"}
    assert ENCODER.read(["--model", "m"], environment) == ENCODER.read(["--model", "m"], {})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("MAX_IMAGEZ", "3", "_MAX_IMAGEZ is not a setting; did you mean VISIONSPLIT_ENCODER_MAX_IMAGES?"),
        ("MAX_IMAGES", "0", "VISIONSPLIT_ENCODER_MAX_IMAGES: '0' is not a whole number of at least 1"),
        ("MAX_IMAGES", "", "VISIONSPLIT_ENCODER_MAX_IMAGES: '' is not a whole number of at least 1"),
        ("TLS_CERT", "", "VISIONSPLIT_ENCODER_TLS_CERT: the value is empty"),
        ("LOG_PROMPTS", "yes", "VISIONSPLIT_ENCODER_LOG_PROMPTS: 'yes' is not true or false"),
        ("CONFIG", "settings.ini", "file settings.ini: the name must end in .yaml, .yml, .toml, .json"),
        ("CONFIG", "/nowhere.toml", "the configuration file /nowhere.toml: cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(capsys: pytest.CaptureFixture[str], name: str, text: str, said: str):
    assert said in refused(capsys, [], {f"VISIONSPLIT_ENCODER_{name}": text})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_image: 3", "'max_image' is not a setting; did you mean max_images?"),
        ("max_images: '3 of them'", "max_images: '3 of them' is not a whole number of at least 1"),
        ("max_images: [3]", "max_images: [3] is not a whole number of at least 1"),
        ("max_images: true", "max_images: 'true' is not a whole number of at least 1"),
        ("caller_share: 75", "caller_share: 75 is not above 0 and at most 1; for 75 percent write 0.75"),
        ("log_prompts: 1", "log_prompts: '1' is not true or false"),
        ("llm: [a:1, b]", "llm: 'b' is "),
        ("dtype: int8", "dtype: 'int8' is not one of float32, float16, bfloat16"),
        ("- max_images", "the file holds no settings"),
        ("max_images: 3: 4", "cannot be read: mapping values are not allowed here"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, said: str
):
    file = written(tmp_path, text)
    line = refused(capsys, ["--config", file], {})
    assert line.startswith(f"visionsplit-encoder: the configuration file {file}: ")
    assert said in line


def test_a_setting_that_must_be_given_may_be_given_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    for arguments, environment in (
        (["--config", written(tmp_path, "model: m")], {}),
        ([], {"VISIONSPLIT_LLM_MODEL": "m"}),
        (["--model", "m"], {}),
    ):
        assert LLM.read(arguments, environment).model == "m"
    with pytest.raises(SystemExit, match="2"):
        LLM.read([], {})
    assert "--model is required" in capsys.readouterr().err


@pytest.mark.parametrize("program", [ENCODER, LLM], ids=lambda program: program.name)
def test_what_is_printed_is_a_file_with_the_same_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path, program):
    arguments = ["--model", "a: #b", "--max-images", "3", "--token-file", "x", "--token-file", "y", "--log-prompts"]
    environment = {"VISIONSPLIT_ENCODER_MAX_BATCH_WAIT_MS": "2.5", "VISIONSPLIT_LLM_MAX_RUNNING": "5"}
    with pytest.raises(SystemExit, match="0"):
        program.read([*arguments, "--print-config"], environment)
    printed = capsys.readouterr().out
    assert "max_images: 3  # option\n" in printed
    assert "grace: 30  # default\n" in printed
    assert "  # environment\n" in printed
    file = written(tmp_path, printed)
    assert program.read(["--config", file], {}) == program.read(arguments, environment)


@pytest.mark.parametrize("module", ["encoder_service.config", "llm_service.config"])
def test_settings_are_read_without_pytorch(module: str, tmp_path: Path):
    file = written(tmp_path, "model: m")
    code = (
        f"import sys\nfrom {module} import PROGRAM\nPROGRAM.read(['--config', {file!r}])\n"
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
