"""Lets vLLM start where torchvision is missing or does not load beside the installed PyTorch, as on some CPUs.

Python imports this module at its start if its folder is on PYTHONPATH, in vLLM's child processes too. vLLM's LLaVA
imports Pixtral's modules, and these import torchvision, but LLaVA-NeXT uses none of it: the transformers library has an
image processor that needs Pillow only. So imports of torchvision find modules whose every name is a class that cannot
be used, while code that asks whether torchvision is installed learns that it is not. Not for an environment in which
torchvision works.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAME = "torchvision"
_find_spec = importlib.util.find_spec


class _Unusable:
    """In place of a class or a function of torchvision."""

    def __init__(self, *_: object, **__: object) -> None:
        raise RuntimeError("torchvision is not installed")


class _Module(ModuleType):
    def __getattr__(self, name: str) -> type[_Unusable]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unusable


class _Placeholder(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.partition(".")[0] == _NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


def _without_torchvision(name: str, package: str | None = None) -> ModuleSpec | None:
    return None if name == _NAME else _find_spec(name, package)


sys.meta_path.insert(0, _Placeholder())
importlib.util.find_spec = _without_torchvision
