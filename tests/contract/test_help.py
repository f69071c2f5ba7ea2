"""Every option of every command line says in plain English what it sets, and its default."""

import argparse
import re

import pytest
import visionsplit_cli
from visionsplit_cli.batch import build_parser as batch_parser
from visionsplit_cli.plan.options import parser as plan_parser

from encoder_service.command_line import build_parser as encoder_parser
from llm_service.options import build_parser as llm_parser

_PASSED_ON = ("batch", "plan")  # these commands have parsers of their own
_BANNED = re.compile(r"\b(nobody|anew|whoever|of its own|is no|so many|told of|None)\b|\(default")
_FLAGS = (argparse._StoreTrueAction, argparse._HelpAction, argparse._VersionAction)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(commands.choices)


PARSERS: dict[str, argparse.ArgumentParser] = {
    "visionsplit-encoder": encoder_parser(),
    "visionsplit-llm": llm_parser(),
    "visionsplit plan": plan_parser(None),
    **{
        f"visionsplit {name}": parser
        for name, parser in _commands(visionsplit_cli._parser()).items()
        if name not in _PASSED_ON
    },
    **{f"visionsplit batch {name}": parser for name, parser in _commands(batch_parser()).items()},
}
OPTIONS = [
    pytest.param(parser, action, id=f"{program} {'/'.join(action.option_strings) or action.dest}")
    for program, parser in PARSERS.items()
    for action in parser._actions
    if not isinstance(action, argparse._HelpAction)
]


@pytest.mark.parametrize(("parser", "action"), OPTIONS)
def test_an_option_says_what_it_sets_and_its_default(parser, action):
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    assert re.match(r"[A-Z-]", text), "a help text is a sentence"
    assert text.endswith((".", '"')), "a help text is a sentence"
    assert not _BANNED.search(text)
    if isinstance(action, _FLAGS) or not action.option_strings:
        return
    assert ("Required." in text) if action.required else ("Default: " in text)


@pytest.mark.parametrize("program", PARSERS)
def test_help_can_be_printed(program):
    assert program in PARSERS[program].format_help()
