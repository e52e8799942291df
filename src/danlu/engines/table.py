"""The engines that answer by a model's name: one line for each."""

from __future__ import annotations

from collections.abc import Callable

from danlu.engines.interface import Engine
from danlu.engines.local import local_engine
from danlu.errors import Fault, InputError

# Each takes the model's name and how many conversations are answered at once.
ENGINES: dict[str, Callable[[str, int], Engine]] = {"transformers": local_engine}


def require_engine(name: str) -> Callable[[str, int], Engine]:
    """What opens a model in the engine of this name.

    Raises:
        InputError: there is none.
    """
    if name not in ENGINES:
        raise InputError(Fault(f"unknown engine `{name}`", "--engine", ", ".join(ENGINES), "choose one of these"))
    return ENGINES[name]
