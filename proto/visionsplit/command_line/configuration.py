"""A service's configuration from its command line, the environment and a file: the same settings by the same names.

A setting `max_images` of the program `visionsplit-encoder` is the option `--max-images`, the environment variable
`VISIONSPLIT_ENCODER_MAX_IMAGES`, and the key `max_images` of the configuration file. The first of these that is given
counts. docs/configuration.md describes this for operators.
"""

import argparse
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Generic, TypeVar

from visionsplit.command_line.parser import OneLineParser, flag, json_object, path
from visionsplit.command_line.settings import ConfigError, Declared, Setting, build, declared
from visionsplit.errors import VisionSplitError

ConfigT = TypeVar("ConfigT")
_Values = dict[str, Any]  # by the settings' names

# Kubernetes sets such variables in every pod for each Service of the namespace. A Service named visionsplit-encoder
# gives VISIONSPLIT_ENCODER_SERVICE_HOST and VISIONSPLIT_ENCODER_PORT_50051_TCP among others.
_SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_.+)?)?)")
_CONFIG, _PRINT_CONFIG = "config", "print_config"


@dataclass(frozen=True)
class Program(Generic[ConfigT]):
    """A command that is configured by a dataclass of settings."""

    name: str
    description: str
    config: type[ConfigT]

    def variable(self, name: str) -> str:
        """The environment variable of a setting."""
        return f"{self.name}_{name}".replace("-", "_").upper()

    def parser(self, *, required: bool = True) -> OneLineParser:
        """The command line. It has no defaults: only what is given becomes an attribute.

        Args:
            required: whether settings without a default must be given as options.
        """
        parser = OneLineParser(prog=self.name, description=self.description, argument_default=argparse.SUPPRESS)
        add = parser.add_argument_group("configuration").add_argument
        add(
            "--config",
            type=path,
            metavar="FILE",
            help="The file from which settings are read that are neither options nor environment variables. Its name "
            f"ends in {', '.join(_FORMATS)}. Default: what {self.variable(_CONFIG)} names, else none.",
        )
        add("--print-config", action="store_true", help="Print all settings as a configuration file in YAML, and exit.")
        groups = {}
        for one in declared(self.config):
            section = one.setting.section
            if section not in groups:
                groups[section] = parser.add_argument_group(section)
            add_option(groups[section], one, required=required)
        return parser

    def read(self, arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> ConfigT:
        """The configuration. A setting that is wrong ends the process with one line and exit status 2.

        Args:
            arguments: the options; None: those of this process.
            environment: the variables.
        """
        parser = self.parser(required=False)
        options = vars(parser.parse_args(arguments))
        print_config = options.pop(_PRINT_CONFIG, False)
        try:
            sources = self._sources(options, environment)
            values = {name: value for _, given in sources for name, value in given.items()}
            for one in declared(self.config):
                if one.default is MISSING and one.name not in values:
                    raise ConfigError(f"{one.option} is required; it may be given in the environment or the file too")
            config = build(self.config, values)
        except VisionSplitError as error:
            parser.error(str(error))
        if print_config:
            print(*self._lines(sources), sep="\n")
            parser.exit(0)
        return config

    def _sources(self, options: _Values, environment: Mapping[str, str]) -> list[tuple[str, _Values]]:
        """What each source gives and what it is called, the one that counts most last."""
        settings = {one.name: one.setting for one in declared(self.config)}
        variables = self._variables(environment, settings)
        named = [options.pop(_CONFIG, None), variables.pop(_CONFIG, None)]
        file = named[0] or named[1]
        sources = [
            ("other variables", _fallbacks(settings, environment)),
            (str(file), {} if file is None else _read_file(file, settings)),
            ("environment", variables),
            ("option", options),
        ]
        return [(label, {name: one for name, one in given.items() if one is not None}) for label, given in sources]

    def _variables(self, environment: Mapping[str, str], settings: Mapping[str, Setting]) -> _Values:
        values: _Values = {}
        prefix = self.variable("")
        for variable, text in environment.items():
            if not variable.startswith(prefix):
                continue
            name = variable.removeprefix(prefix).lower()
            if name == _CONFIG:
                values[name] = Path(text) if text else None
            elif name in settings:
                with _naming(variable):
                    values[name] = _read(settings[name], text)
            elif not _SERVICE_LINK.fullmatch(variable.removeprefix(prefix)):
                known = [self.variable(one) for one in (*settings, _CONFIG)]
                raise ConfigError(f"the environment variable {variable} is not a setting{_hint(variable, known)}")
        return values

    def _lines(self, sources: Sequence[tuple[str, _Values]]) -> Iterator[str]:
        for one in declared(self.config):
            value, source = one.default, "default"
            for label, given in sources:
                if one.name in given:
                    value, source = given[one.name], label
            yield f"{one.name}: {_written(one.setting, value)}  # {source}"


def add_option(
    group: argparse._ArgumentGroup,
    one: Declared,
    *,
    required: bool = True,
    default: Any = argparse.SUPPRESS,  # noqa: ANN401
) -> None:
    """Add the option of a setting; its help ends with the setting's default.

    Args:
        group: the part of the help text.
        one: the setting.
        required: whether a setting without a default must be given.
        default: the option's value where it is not given.
    """
    setting = one.setting
    names = (one.option,) if setting.alias is None else (one.option, setting.alias)
    if setting.kind is flag:
        group.add_argument(*names, action="store_true", default=default, help=setting.help)
        return
    end = "Required." if one.default is MISSING else f"Default: {one.default_text}."
    group.add_argument(
        *names,
        type=setting.read,
        action="extend" if setting.many else "store",
        default=default,
        required=required and one.default is MISSING,
        metavar=setting.metavar or setting.kind.metavar,
        help=f"{setting.help} {end}".replace("%", "%%"),
    )


def _written(setting: Setting, value: Any) -> str:  # noqa: ANN401 - of the setting's kind
    """A setting's value as YAML."""
    if setting.many:
        return json.dumps([setting.kind.show(one) for one in value])
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = setting.show(value)
    return shown if isinstance(value, int | float) else json.dumps(shown)


def _read(setting: Setting, given: object) -> Any:  # noqa: ANN401 - of the setting's kind
    """A setting's value from the environment or from a file, where it may be a number, a truth value, a list or, for a
    setting that takes a JSON object, a mapping."""
    if given is None:
        return None
    if isinstance(given, list) and setting.many:
        return tuple(value for one in given for value in _read(setting, one))
    if isinstance(given, bool):
        given = "true" if given else "false"
    if isinstance(given, dict) and setting.kind is json_object:
        given = json.dumps(given)
    if not isinstance(given, str | int | float):
        raise ConfigError(f"{given!r} is not {setting.kind.accepted}")
    try:
        return setting.read(str(given))
    except argparse.ArgumentTypeError as error:
        raise ConfigError(str(error)) from None


def _read_file(file: Path, settings: Mapping[str, Setting]) -> _Values:
    """The settings of a configuration file.

    Raises:
        ConfigError: the file cannot be read, or a key or value of it is wrong.
    """
    with _naming(f"the configuration file {file}"):
        given = _parsed(file)
        values = {}
        for name, value in given.items():
            if name not in settings:
                raise ConfigError(f"{name!r} is not a setting{_hint(str(name), settings)}")
            with _naming(name):
                values[name] = _read(settings[name], value)
        return values


def _parsed(file: Path) -> Mapping[str, object]:
    parse = _FORMATS.get(file.suffix)
    if parse is None:
        raise ConfigError(f"the name must end in {', '.join(_FORMATS)}")
    try:
        given = parse(file.read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ConfigError("the file holds no settings; lines such as `max_images: 4` are expected")
    return given


def _yaml(text: str) -> object:
    import yaml  # only where it is needed; the other formats come with Python

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


_FORMATS: dict[str, Callable[[str], object]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": tomllib.loads,
    ".json": json.loads,
}


def _fallbacks(settings: Mapping[str, Setting], environment: Mapping[str, str]) -> _Values:
    return {name: one.fallback(environment) for name, one in settings.items() if one.fallback is not None}


def _hint(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Begin the text of a ConfigError with where it is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None
