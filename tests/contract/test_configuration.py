"""docs/configuration.md: its tables are those of the services, and its files are ones that they take."""

import re
from dataclasses import MISSING

import pytest
import yaml
from visionsplit.command_line.configuration import Program
from visionsplit.command_line.settings import declared

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text()
PROGRAMS = pytest.mark.parametrize("program", [ENCODER, LLM], ids=lambda program: program.name)


def table(program: Program) -> str:
    """A program's settings, as the page must show them."""
    lines = [f"### {program.name}", "", "| setting | accepts | default | |", "|---|---|---|---|"]
    section = ""
    for one in declared(program.config):
        if one.setting.section != section:
            section = one.setting.section
            lines.append(f"| **{section}** | | | |")
        setting = one.setting
        shown = "required" if one.default is MISSING else one.default_text
        if not setting.absent and one.default not in (MISSING, None, ()):
            shown = f"`{shown}`"
        several = ", or several" if setting.many else ""
        lines.append(f"| `{one.name}` | {setting.kind.accepted}{several} | {shown} | {setting.help} |")
    return "\n".join(lines)


def example(name: str) -> str:
    """The block of code that begins with a file's name."""
    (found,) = re.findall(rf"^```\w+\n# {re.escape(name)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@PROGRAMS
def test_the_page_lists_all_settings(program):
    assert table(program) in PAGE, f"the page must have this table:\n{table(program)}"


@pytest.mark.parametrize(
    ("name", "program", "expected"),
    [
        ("encoder.yaml", ENCODER, {"max_images": 8, "retention_ratio": 0.25, "method": None}),
        ("llm.toml", LLM, {"listen": "0.0.0.0:50052", "device": None}),
    ],
)
def test_the_example_files_are_read(tmp_path, name, program, expected):
    file = tmp_path / name
    file.write_text(example(name))
    more = ["--max-images", "8"] if program is ENCODER else []
    config = program.read(["--config", str(file), *more], {})
    assert {field: getattr(config, field) for field in expected} == expected
    if program is ENCODER:
        assert config.llm == ("llm-a.internal:50052", "llm-b.internal:50052")
        assert config.security.tls is not None
        assert config.llm_security.tls is not None
        assert config.telemetry.log_format == "json"
    else:
        assert (config.ray.max_replicas, config.engine.memory_fraction) == (4, 0.7)
        assert config.engine.caller_share == config.limits.caller_share == 0.5


def test_the_variables_of_the_compose_file_are_read():
    services = yaml.safe_load(example("docker-compose.override.yml"))["services"]
    encoder = ENCODER.read(["--model", "m"], services["encoder"]["environment"])
    assert (encoder.max_images, str(encoder.cache.folder)) == (4, "/cache/tokens")
    llm = LLM.read(["--model", "m"], services["llm-gateway"]["environment"])
    assert (llm.limits.default_max_new_tokens, llm.telemetry.log_format) == (128, "json")
