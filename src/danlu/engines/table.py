"""The engines that answer by a model's name: one line for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from danlu.engines.exported import engine_for, runner_of
from danlu.engines.interface import Engine
from danlu.engines.local import local_engine
from danlu.errors import Fault, InputError

AUTO = "auto"


def _exported(name: str, _: int) -> Engine:
    return engine_for(Path(name))


# Each takes the model's name and how many conversations are answered at once, where it answers several at once.
ENGINES: dict[str, Callable[[str, int], Engine]] = {
    "transformers": local_engine,
    "llama.cpp": _exported,
    "onnxruntime": _exported,
    "compressed-tensors": _exported,
}


def choose_engine(engine: str, model: str) -> str:
    """The name of the engine that is to answer by a model.

    Args:
        engine: a name, or `auto`: what the model's files are for; a .gguf file is also what transformers reads.
        model: its name.

    Raises:
        InputError: there is no such engine, or it does not read what the model is.
    """
    if engine not in (AUTO, *ENGINES):
        allowed = ", ".join((AUTO, *ENGINES))
        raise InputError(Fault(f"unknown engine `{engine}`", "--engine", allowed, "choose one of these"))
    needed = runner_of(Path(model))
    readable = {needed, "transformers"} if model.endswith(".gguf") else {needed}
    if engine != AUTO and engine not in readable:
        what = f"the engine {engine} does not read what this model is"
        raise InputError(
            Fault(what, model, ", ".join(sorted(readable)), "leave --engine out: it is chosen by the files")
        )
    if engine == AUTO:
        return "transformers" if model.endswith(".gguf") else needed
    return engine
