"""A finished run, opened for those who use it: evaluation, export, serving."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import load_adapter
from danlu.data.prepared import EVALUATION_ROWS, read_conversations
from danlu.data.records import Messages
from danlu.data.template import stop_ids
from danlu.engines.transformers_engine import TransformersEngine
from danlu.errors import Fault, FolderError, ModelError
from danlu.models.folder import weight_files
from danlu.models.loading import choose_device, choose_dtype, generation_defaults, load_base, load_plain
from danlu.models.quantization import compute_in
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import Recipe, load_recipe
from danlu.runs import ADAPTER, MANIFEST, MODEL, RESOLVED, file_hash, read_manifest


@dataclass(frozen=True)
class TrainedRun:
    """A run folder whose recipe was read.

    Attributes:
        folder: the run folder.
        recipe: as it was resolved for the run.
        about: the manifest; empty for a run that was stopped before its end.
    """

    folder: Path
    recipe: Recipe
    about: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """What the run computes in on this machine."""
        return choose_dtype(self.recipe.model.dtype, choose_device())

    def base_folder(self) -> Path:
        """The base model's folder, proven to hold the weights that the run was trained on.

        Raises:
            ModelError: it can't be found, or its weights changed.
        """
        folder = find_model(self.recipe.model.name, self.recipe.model.revision)
        expected = self.about.get("base_sha256")
        if expected and base_hash(folder) != expected:
            raise ModelError(
                Fault(
                    "the base's weights are not those that this run was trained on",
                    str(folder),
                    f"SHA-256 {expected}",
                    "restore the base, or train again on the new one",
                )
            )
        return folder

    def plain_base(self) -> Any:
        """The base as the run had it, rounded or quantised, as plain float32 weights."""
        return load_plain(self.base_folder(), self.dtype, self.recipe.model.quantization)

    def engine(self, dtype: torch.dtype) -> TransformersEngine:
        """Tuned model and base, ready to answer with either, computed in `dtype` whatever the run was computed in."""
        folder = self.base_folder()
        tokenizer = load_tokenizer(folder)
        base = compute_in(load_base(folder, self.dtype, quantization=self.recipe.model.quantization), dtype)
        alone = None
        if self.recipe.adapter is None:
            model, alone = load_base(self.folder / MODEL, dtype), base
        else:
            model = load_adapter(base, self.folder / ADAPTER)
        batch_size = self.recipe.evaluation.batch_size if self.recipe.evaluation else 16
        stops = stop_ids(tokenizer, generation_defaults(folder))
        return TransformersEngine(model, tokenizer, stops, batch_size, alone)

    def evaluation_rows(self) -> list[Messages]:
        """The held-out conversations, each with its reference answer last."""
        return read_conversations(self.folder / EVALUATION_ROWS)


def open_run(folder: str | Path, allow_stopped: bool = False) -> TrainedRun:
    """Opens a run folder.

    Args:
        folder: written by `danlu train`.
        allow_stopped: also open a run that was stopped early but has what it trained.

    Raises:
        FolderError: it is no run folder, or not complete.
    """
    folder = Path(folder)
    has_weights = (folder / ADAPTER).is_dir() or (folder / MODEL).is_dir()
    if allow_stopped and has_weights and not (folder / MANIFEST).is_file():
        return TrainedRun(folder, load_recipe(folder / RESOLVED).recipe, {})
    about = read_manifest(folder, "run")
    if not (folder / RESOLVED).is_file():
        raise FolderError(
            Fault(f"the run has no {RESOLVED}", str(folder), hint="name a folder that `danlu train` wrote")
        )
    return TrainedRun(folder, load_recipe(folder / RESOLVED).recipe, about)


def base_hash(folder: Path) -> str:
    """SHA-256 over the hashes of a model's weight files, in order of name."""
    hashes = [_hash(path, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(folder)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


@functools.lru_cache(512)
def _hash(path: Path, _size: int, _changed_ns: int) -> str:
    """Of a file that is read once, though several stages ask: a large base takes minutes."""
    return file_hash(path)
