"""Importing diffusers' two networks of Stable Diffusion without what they never need here: 1 s instead of 4.

diffusers' packages import every model that they hold, and with these torch's compiler, transformers and scipy's
statistics. Nothing is lost: packages and classes that were put off are imported by the first who uses them. Only blocks
of diffusers are not marked for `torch.compile`, whose marks change no result.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

#: Packages of which a module or two is needed.
_PUT_OFF = (
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "diffusers.models.autoencoders",
    "diffusers.hooks",
)


def import_networks() -> None:
    """Import diffusers; does nothing where somebody has imported it before."""
    if "diffusers" in sys.modules:
        return
    try:
        with _standing_in("torch._dynamo", _Unmarked("torch._dynamo")):
            importlib.import_module("diffusers")
            for name in (*_PUT_OFF, "scipy.stats"):
                _put_off(name)
            if "transformers" in sys.modules:
                _networks()
            else:
                with _standing_in("transformers", _Names("transformers")):
                    _networks()
    except Exception:  # a version of diffusers that is made in another way is imported in its own
        for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
            del sys.modules[name]


def _networks() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401


class _Unmarked(ModuleType):
    """What diffusers takes of torch._dynamo as it is imported: marks of classes and functions, which do nothing."""

    @staticmethod
    def allow_in_graph(marked: Any) -> Any:
        return marked

    @staticmethod
    def disable(marked: Any = None, *_: Any, **__: Any) -> Any:
        return (lambda function: function) if marked is None else marked


class _Package(ModuleType):
    """A package whose modules can be imported, and that is run when it is asked for a name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None and self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _Names(ModuleType):
    """A library of which a class is known by name until it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Later(name, (), {"library": self.__name__})


class _Later(type):
    """A class that is imported when something is made of it, asked of it or compared with it."""

    library: str

    @property
    def meant(cls) -> Any:
        return getattr(importlib.import_module(cls.library), cls.__name__)

    def __call__(cls, *given: Any, **named: Any) -> Any:
        return cls.meant(*given, **named)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.meant, name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.meant)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.meant)


def _put_off(name: str) -> None:
    """Let a package run only when it is asked for a name; what is there already, or is not installed, stays."""
    above, _, last = name.rpartition(".")
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
        return
    sys.modules[name] = package = _Package(name)
    package.__spec__, package.__loader__, package.__package__ = spec, spec.loader, name
    package.__path__, package.__file__ = spec.submodule_search_locations or [], spec.origin
    setattr(sys.modules[above], last, package)


@contextmanager
def _standing_in(name: str, module: ModuleType) -> Iterator[None]:
    """Within the context a library is this module; one that is there already stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
