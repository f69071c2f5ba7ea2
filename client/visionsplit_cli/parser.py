"""The parser of a command's own options."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from visionsplit.command_line.parser import OneLineParser
from visionsplit.visible import one_line


class CommandParser(OneLineParser):
    """Takes options before, between and behind a command's other words."""

    _mixing = False

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # noqa: ANN401
        """argparse by itself takes all words of a kind at once: in `ask a.png --ratio 0.1 "What?"`, only `a.png`."""
        passed_on = any(action.nargs in (argparse.REMAINDER, argparse.PARSER) for action in self._actions)
        if self._mixing or passed_on or "--" in (args or ()):  # mixing forgets that only words follow --
            return super().parse_known_args(args, namespace)
        self._mixing = True  # `parse_known_intermixed_args` calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False

    def error(self, message: str) -> NoReturn:
        super().error(one_line(message))
