"""Keeps torch's compiler out of a process that never compiles."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Keeps `torch._dynamo` from being loaded inside the `with` block.

    Torchvision, timm and torch's optimizers load it only to say which of their functions it must
    not compile. With it come 860 modules, which took 29 % of the CPU time of a worker's imports.
    Inside the block they find a stand-in, for which every function stays as it is. Afterwards
    whoever wants the compiler loads it as usual. A process that has it already keeps it.
    """
    if _COMPILER in sys.modules:
        yield
        return
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _StandIn(ModuleType):
    """Has the few functions that are asked for; with any other name the compiler is loaded."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 whatever the module has
        if name.startswith("__"):
            raise AttributeError(name)  # the import system and debuggers look at every module
        for each in (_COMPILER, _UTILS):
            if isinstance(sys.modules.get(each), _StandIn):
                del sys.modules[each]
        return getattr(importlib.import_module(self.__name__), name)


def _stand_ins() -> dict[str, ModuleType]:
    compiler, utils = _StandIn(_COMPILER), _StandIn(_UTILS)
    vars(compiler).update(disable=_unchanged, graph_break=lambda: None)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    return {_COMPILER: compiler, _UTILS: utils}


def _unchanged(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:  # noqa: ANN401 a decorator, with or without arguments
    """Returns the function that must not be compiled, or a decorator that returns it."""
    return _unchanged if function is None else function


def _is_compile_supported(device_type: str) -> bool:
    """Asks the compiler; torchvision does, in operations that compile themselves."""
    from torch._dynamo.utils import is_compile_supported  # noqa: PLC0415 what is to be avoided

    return bool(is_compile_supported(device_type))
