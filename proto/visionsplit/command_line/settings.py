"""A service's settings, each declared once: as a field of a frozen dataclass, with its kind, its default and its help.

The command line, the environment and the configuration file follow from the fields (`configuration`). A dataclass whose
`__post_init__` calls `check` accepts exactly the values that its options accept.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from visionsplit.command_line.parser import Kind, flag
from visionsplit.errors import VisionSplitError

T = TypeVar("T")
Fallback = Callable[[Mapping[str, str]], str | None]

_SETTING, _GROUP = "visionsplit.setting", "visionsplit.group"


class ConfigError(VisionSplitError, ValueError):
    """A setting that is out of its range, contradicts another, or that this machine or the checkpoint cannot honour."""


@dataclass(frozen=True)
class Setting:
    """What is declared of a field beside its type and default."""

    section: str  # of the help text
    kind: Kind[Any]
    help: str  # a sentence; the default is added to it
    name: str = ""  # as in the configuration file; empty: the field's
    absent: str = ""  # what the default means, as it follows "Default: "; empty: the default is shown
    metavar: str = ""  # empty: the kind's
    alias: str | None = None  # another name of the option
    many: bool = False  # the value is a tuple
    fallback: Fallback | None = None  # a value that variables of other programs give, before the default

    def read(self, text: str) -> Any:  # noqa: ANN401 - of the setting's kind
        """The value behind a text. The values of a setting that takes many have commas between them.

        Raises:
            argparse.ArgumentTypeError: the text is not of the setting's kind.
        """
        return tuple(self.kind(part.strip()) for part in text.split(",")) if self.many else self.kind(text)

    def show(self, value: Any) -> str:  # noqa: ANN401 - of the setting's kind
        """The text that `read` reads as a value."""
        return ",".join(map(self.kind.show, value)) if self.many else self.kind.show(value)


@dataclass(frozen=True)
class Group:
    """A field that holds a dataclass of settings, or what such a dataclass makes."""

    declared: type
    prefix: str  # of the settings' names

    def build(self, values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the field's type
        """The field's value; a class of settings that stands for another value has a method `make`."""
        built: Any = build(self.declared, values, self.prefix)
        return built.make() if hasattr(built, "make") else built


def setting(section: str, default: Any, kind: Kind[Any], text: str, **more: Any) -> Any:  # noqa: ANN401 - as `field`
    """A dataclass's field that is a setting. `default` is `MISSING` for one that must be given; `more` as `Setting`."""
    return field(default=default, metadata={_SETTING: Setting(section, kind, text, **more)})


def group(declared: type, prefix: str = "") -> Any:  # noqa: ANN401 - as `dataclasses.field`
    """A dataclass's field whose settings another dataclass declares."""
    one = Group(declared, prefix)
    return field(default_factory=lambda: one.build({}), metadata={_GROUP: one})


@dataclass(frozen=True)
class Declared:
    """A setting of a configuration under its full name."""

    name: str  # as in the configuration file
    setting: Setting
    default: Any  # `MISSING` if it must be given

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """The default as a help text says it."""
        shown = "none" if self.default in (None, ()) else self.setting.show(self.default)
        return self.setting.absent or shown


def declared(config: type, prefix: str = "") -> list[Declared]:
    """The settings of a configuration and of its groups, section by section. One that two groups share comes once."""
    found = {one.name: one for one in _declared(config, prefix)}
    sections = list(dict.fromkeys(one.setting.section for one in found.values()))
    return sorted(found.values(), key=lambda one: sections.index(one.setting.section))


def _declared(config: type, prefix: str) -> Iterator[Declared]:
    for one in fields(config):
        if (inner := one.metadata.get(_GROUP)) is not None:
            yield from _declared(inner.declared, prefix + inner.prefix)
        elif (found := one.metadata.get(_SETTING)) is not None:
            yield Declared(prefix + (found.name or one.name), found, one.default)


def build(config: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """A configuration from the values of settings by their full names; the others have their defaults.

    Raises:
        VisionSplitError: the values contradict each other.
    """
    arguments = {}
    for one in fields(cast(Any, config)):
        if (inner := one.metadata.get(_GROUP)) is not None:
            arguments[one.name] = Group(inner.declared, prefix + inner.prefix).build(values)
        elif (found := one.metadata.get(_SETTING)) is not None:
            name = prefix + (found.name or one.name)
            if name in values:
                arguments[one.name] = tuple(values[name]) if found.many else values[name]
    return config(**arguments)


def check(config: Any) -> None:  # noqa: ANN401 - any dataclass of settings
    """Refuse a value that the setting's option would not take.

    Raises:
        ConfigError: names the field, the value, and what is accepted.
    """
    for one in fields(config):
        found: Setting | None = one.metadata.get(_SETTING)
        value = getattr(config, one.name)
        if found is None or value is None or found.kind is flag or value == ():
            continue
        text = found.show(value)
        try:
            found.read(text)
        except argparse.ArgumentTypeError:
            raise ConfigError(f"{one.name} is {text}; {found.kind.accepted} is needed") from None
