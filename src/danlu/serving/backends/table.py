"""The engines that `danlu serve` knows, and how each is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from danlu.engines.batching import Limits
from danlu.errors import Fault, InputError
from danlu.export.comparison import BOUNDS
from danlu.serving.backends.interface import Opened
from danlu.serving.catalogue import Catalogue
from danlu.training.trained import TrainedRun

KEY = "DANLU_UPSTREAM_KEY"  # environment variable with the key of an upstream


@dataclass(frozen=True)
class Choice:
    """Which engine is to answer, and how.

    Attributes:
        engine: a key of `ENGINES`.
        dtype: to compute in, for transformers and vLLM; `auto` is that of the runs.
        quantize: of llama.cpp's weights, as in `q8_0`; of an upstream, what it computes in: how near it must come.
        limits: of the engine.
        upstream: address of a server.
        names: what the upstream calls a model, by its name in the gateway.
    """

    engine: str = "transformers"
    dtype: str = "auto"
    quantize: str | None = None
    limits: Limits = field(default_factory=Limits)
    upstream: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults = []
        if (self.upstream is not None) != (self.engine == "upstream"):
            faults.append(
                Fault("--upstream and --engine upstream go together", "command line", hint="write both, or neither")
            )
        if self.names and self.engine != "upstream":
            faults.append(Fault("--upstream-model is for --engine upstream", "command line", hint="leave it out"))
        if self.quantize is not None and self.engine not in ("llama.cpp", "upstream"):
            hint = "take --dtype, or leave it out"
            faults.append(Fault("--quantize is for --engine llama.cpp and upstream", "command line", hint=hint))
        elif self.quantize is not None and self.quantize not in BOUNDS:
            faults.append(Fault(f"--quantize {self.quantize} is not known", "command line", ", ".join(BOUNDS)))
        if self.dtype != "auto" and self.engine not in ("transformers", "vllm"):
            faults.append(Fault(f"--dtype is not for --engine {self.engine}", "command line", hint="take --quantize"))
        if faults:
            raise InputError(*faults)


def _transformers(choice: Choice, base: TrainedRun | str, catalogue: Catalogue) -> Opened:
    from danlu.serving.loading import open_base

    return open_base(base, choice.dtype, choice.limits)


def _llama(choice: Choice, base: TrainedRun | str, catalogue: Catalogue) -> Opened:
    from danlu.serving.backends.llama import open_llama
    from danlu.serving.backends.llama_server import Size

    limits = choice.limits
    size = Size(limits.max_rows, limits.max_context or 0, limits.max_waiting)
    return open_llama(base, choice.quantize or "q8_0", size, limits.kv_bytes)


def _vllm(choice: Choice, base: TrainedRun | str, catalogue: Catalogue) -> Opened:
    from danlu.serving.backends.vllm import open_vllm

    return open_vllm(base, choice.dtype, choice.limits)


# Each takes the choice, the base, and where adapters come from. An upstream has its base itself.
ENGINES: dict[str, Callable[[Choice, TrainedRun | str, Catalogue], Opened]] = {
    "transformers": _transformers,
    "llama.cpp": _llama,
    "vllm": _vllm,
}


def open_engine(choice: Choice, base: Callable[[], TrainedRun | str], catalogue: Catalogue) -> Opened:
    """Opens the engine that was chosen, with its base.

    Args:
        choice: of the engine.
        base: finds the base to serve.
        catalogue: of the adapters.

    Raises:
        InputError: it can't be opened so.
        ResourceError: what it needs is not installed.
    """
    return ENGINES[choice.engine](choice, base(), catalogue)


def open_their_engine(choice: Choice, base: str | None, catalogue: Catalogue | None) -> tuple[Opened, Catalogue]:
    """Opens an upstream; its own models are the catalogue where there is none.

    Raises:
        InputError: it can't be reached, or has no such model.
    """
    from danlu.serving.backends.upstream import upstream_at
    from danlu.serving.backends.upstream_models import open_upstream, their_models

    upstream = upstream_at(choice.upstream or "", os.environ.get(KEY))
    catalogue = catalogue or their_models(upstream, base, choice.names)
    kind = choice.quantize or "bfloat16"
    return open_upstream(upstream, base, choice.names, kind, catalogue), catalogue
