"""The engine that runs an exported folder, chosen by what lies in it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from danlu.engines.interface import ScoringEngine
from danlu.errors import Fault, ModelError

_ADAPTER, _WHOLE = "adapter.gguf", "model.gguf"
BASE = "base.json"  # beside a GGUF adapter: which GGUF file it goes on


def runner_of(folder: Path) -> str:
    """Name of the engine (see `danlu.engines.table`) that runs what a folder or a .gguf file holds."""
    if folder.suffix == ".gguf" or (folder / _ADAPTER).is_file() or (folder / _WHOLE).is_file():
        return "llama.cpp"
    if list(folder.glob("*.onnx")):
        return "onnxruntime"
    return "compressed-tensors" if _quantization_method(folder) == "compressed-tensors" else "transformers"


def engine_for(folder: Path, dtype: torch.dtype = torch.float32) -> ScoringEngine:
    """Loads an exported folder by its own files alone: template, tokenizer, end tokens and weights.

    Args:
        folder: that an export wrote; or a .gguf file.
        dtype: to compute in, where the format leaves a choice.

    Raises:
        ModelError: it can't be loaded.
        ResourceError: the engine of its format is not installed.
    """
    runner, adapter = runner_of(folder), folder / _ADAPTER
    if runner == "llama.cpp":
        from danlu.engines.llama_cpp import LlamaCppEngine

        if adapter.is_file():
            return LlamaCppEngine(_base_of(folder), adapter)
        return LlamaCppEngine(folder if folder.suffix == ".gguf" else folder / _WHOLE)
    if runner == "onnxruntime":
        from danlu.engines.onnx_engine import OnnxEngine

        return OnnxEngine(folder)
    if runner == "compressed-tensors":
        from danlu.engines.compressed import CompressedEngine

        return CompressedEngine(folder)
    from danlu.data.template import stop_ids
    from danlu.engines.transformers_engine import TransformersEngine
    from danlu.models.folder import check_model_folder
    from danlu.models.loading import generation_defaults, load_base
    from danlu.models.tokenizer import load_tokenizer

    check_model_folder(folder)
    tokenizer = load_tokenizer(folder)
    return TransformersEngine(load_base(folder, dtype), tokenizer, stop_ids(tokenizer, generation_defaults(folder)))


def _quantization_method(folder: Path) -> str | None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    method: str | None = (config.get("quantization_config") or {}).get("quant_method")
    return method


def _base_of(folder: Path) -> Path:
    """The GGUF file that an exported adapter goes on.

    Raises:
        ModelError: it is not where it was.
    """
    try:
        path = Path(json.loads((folder / BASE).read_text(encoding="utf-8"))["gguf"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            Fault(f"{BASE} can't be read: {error}", str(folder), hint="export the adapter again")
        ) from error
    if not path.is_file():
        raise ModelError(
            Fault("the base's GGUF file is gone", str(path), hint="export the adapter again, which makes it")
        )
    return path
