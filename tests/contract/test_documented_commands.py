"""The programs accept the commands in README.md and the documentation."""

import re
import shlex

import pytest
import visionsplit_cli

from encoder_service.config import PROGRAM as ENCODER
from llm_service.config import PROGRAM as LLM
from tests.conftest import ROOT

_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_PARSERS = {
    "visionsplit": lambda words: visionsplit_cli.build_parser().parse_args(words),
    "visionsplit-encoder": lambda words: read(ENCODER, words),
    "visionsplit-llm": lambda words: read(LLM, words),
}
_MODULES = {"encoder_service": "visionsplit-encoder", "llm_service": "visionsplit-llm"}


def read(program, words):
    """As the program does; a configuration file that is not there is not read."""
    if "--config" in words:
        program.parser(required=False).parse_args(words)
    else:
        program.read(words)


def commands(text):
    """The programs' command lines in blocks of shell code and in the first column of tables."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^\| `(visionsplit [^`]+)` \|", text, re.MULTILINE)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"] and words[2] in _MODULES:
            words[:3] = [_MODULES[words[2]]]
        if words and words[0] in _PARSERS:
            yield words


DOCUMENTED = [pytest.param(words, id=" ".join(words)) for page in _PAGES for words in commands(page.read_text())]


def test_there_are_some():
    assert len(DOCUMENTED) > 20


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_documented_command_can_be_given(words):
    # What stands for something else is taken for a value that any option of its kind takes.
    program, *arguments = [word.replace("HOST:PORT", "127.0.0.1:1") for word in words]
    _PARSERS[program](arguments)
