"""What is loaded for serving: one base, and run folders' adapters on it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.plain_lora import read_plain_lora
from danlu.data.template import stop_ids
from danlu.engines.batching import BatchingEngine, Limits
from danlu.engines.openmp import no_team_left
from danlu.errors import DanluError, Fault, FolderError, ModelError
from danlu.models.loading import choose_device, choose_dtype, dtype_name, generation_defaults, load_base
from danlu.models.packed import pack_linear_layers
from danlu.models.quantization import compute_in
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.runs import ADAPTER
from danlu.serving.proof import prove
from danlu.training.machine import close_holes
from danlu.training.probes import read_probes
from danlu.training.trained import TrainedRun, base_hash, open_run


@dataclass(frozen=True)
class ServedBase:
    """The base that all adapters share.

    Attributes:
        name: under which it is asked for.
        sha256: of its weights.
        quantization: as the recipes of its runs have it.
        dtype: that it computes in, as in `float32`.
        engine: with it, ready.
    """

    name: str
    sha256: str
    quantization: Any
    dtype: str
    engine: BatchingEngine

    @property
    def computed(self) -> str:
        """What an answer depends on beside base, adapter and question."""
        return f"{self.dtype} {self.quantization}"

    @property
    def loads(self) -> AdapterLoader:
        """Puts adapters on it."""
        return AdapterLoader(self)


def computing_dtype(of: TrainedRun | str, dtype: str) -> torch.dtype:
    """What to compute in; `auto` is what a run was trained in, and for a model what the hardware multiplies in."""
    return of.dtype if dtype == "auto" and not isinstance(of, str) else choose_dtype(dtype, choose_device())


@no_team_left()
def open_base(of: TrainedRun | str, dtype: str, limits: Limits) -> ServedBase:
    """Loads the base of a run as it was trained on, or a model by its name.

    Args:
        of: a run, or a model as `model.name` of a recipe.
        dtype: to compute in; `auto` is the run's.
        limits: of the engine.

    Raises:
        ModelError: it can't be found, is not the one that was trained on, or can't answer many at once.
    """
    chosen = computing_dtype(of, dtype)
    if isinstance(of, str):
        folder, kept, quantization, name = find_model(of), chosen, None, of
    else:
        folder, kept, quantization = of.base_folder(), of.dtype, of.recipe.model.quantization
        name = of.recipe.model.name
    base = compute_in(load_base(folder, kept, quantization=quantization), chosen)
    pack_linear_layers(base)
    tokenizer = load_tokenizer(folder)
    importlib.import_module("peft.utils.other")  # takes seconds, which the first adapter would take longer
    engine = BatchingEngine(base, tokenizer, stop_ids(tokenizer, generation_defaults(folder)), limits)
    close_holes()  # where the weights were before they were converted and packed
    return ServedBase(Path(name).name, base_hash(folder), quantization, dtype_name(chosen), engine)


@dataclass(frozen=True)
class AdapterLoader:
    """See `danlu.serving.shelf.Loads`."""

    base: ServedBase

    @no_team_left()
    def load(self, name: str, folder: Path, proven: bool) -> None:
        """Reads an adapter, puts it on the base, and has it say what its run's probes say.

        Raises:
            FolderError: it is broken, more than plain LoRA, or does not fit.
            ModelError: it was trained on another base.
            GateError: it misses the probes.
        """
        run = open_run(folder)
        self._require_base(run)
        engine = self.base.engine
        dtype = getattr(torch, self.base.dtype)
        engine.add(name, read_plain_lora(folder / ADAPTER, dtype, engine.model.device))
        if proven:
            return
        try:
            prove(engine, name, read_probes(folder), self.base.dtype, str(folder))
        except DanluError:
            engine.remove(name)
            raise
        finally:
            close_holes()  # of a proof's logits and cache

    def unload(self, name: str) -> None:
        """Takes an adapter off the base, and gives back to the system what it has held."""
        self.base.engine.remove(name)
        close_holes()

    def _require_base(self, run: TrainedRun) -> None:
        require_base(run, self.base.sha256)
        if run.recipe.model.quantization != self.base.quantization:
            what = "its base was quantised otherwise in training"
            raise ModelError(Fault(what, str(run.folder), "model.quantization of all runs the same"))


def require_base(run: TrainedRun, sha256: str | None) -> None:
    """Requires that a run has an adapter, and was trained on the base with this hash; None: on any.

    Raises:
        FolderError: it has none.
        ModelError: it was trained on another.
    """
    if run.recipe.adapter is None:
        hint = "export it with `danlu export RUN --to merged`, and serve the export by --base"
        raise FolderError(Fault("this run trained the model itself, it has no adapter", str(run.folder), hint=hint))
    if sha256 is not None and run.about.get("base_sha256", sha256) != sha256:
        what = f"it was trained on another base, {run.recipe.model.name}"
        raise ModelError(Fault(what, str(run.folder), f"SHA-256 {sha256}", "serve it beside its own base"))
