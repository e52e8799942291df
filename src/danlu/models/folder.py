"""What a model folder must hold before anything heavy is loaded from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")


def check_model_folder(folder: Path) -> Path:
    """Checks that a folder holds a model in safe formats, without loading it.

    Returns:
        The same folder.

    Raises:
        ModelError: no or broken `config.json`, no tokenizer, no weights, pickle weights only, or a broken
            safetensors file.
    """
    faults = [
        fault
        for fault in (_config_fault(folder), _tokenizer_fault(folder), *_weight_faults(folder))
        if fault is not None
    ]
    if faults:
        raise ModelError(*faults)
    return folder


def model_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def is_encoder_decoder(folder: Path) -> bool:
    """Whether an encoder reads the question and a decoder writes the answer, as in T5; false without a config."""
    return (folder / "config.json").is_file() and bool(model_config(folder).get("is_encoder_decoder"))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order."""
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter"))


def _config_fault(folder: Path) -> Fault | None:
    path = folder / "config.json"
    if not path.is_file():
        return Fault(
            "the folder has no config.json",
            str(folder),
            "a Transformers model folder",
            "name the folder that holds config.json; an adapter folder is not a base",
        )
    try:
        config = model_config(folder)
        if not isinstance(config, dict) or "model_type" not in config:
            return Fault("config.json names no model_type", str(path), hint="fetch the model again")
    except (ValueError, OSError) as error:
        return Fault(f"config.json can't be read: {error}", str(path), hint="fetch the model again")
    return None


def _tokenizer_fault(folder: Path) -> Fault | None:
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    return Fault(
        "the folder has no tokenizer",
        str(folder),
        "tokenizer.json, tokenizer.model or vocab.json",
        "copy the tokenizer files of the model into the folder",
    )


def _weight_faults(folder: Path) -> list[Fault]:
    files = weight_files(folder)
    if not files:
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            return [
                Fault(
                    f"the weights are pickle files ({pickles[0]}), which can run any code when they are read",
                    str(folder),
                    "safetensors weights",
                    "convert them where you trust them: load with Transformers, then save_pretrained",
                )
            ]
        return [Fault("the folder has no weights", str(folder), "*.safetensors", "fetch the model again")]
    return broken_weights(folder)


def broken_weights(folder: Path) -> list[Fault]:
    """Faults of the safetensors files that are there, and those that an index names and that are not."""
    return [fault for path in weight_files(folder) if (fault := _safetensors_fault(path))] + _missing_shards(folder)


def _safetensors_fault(path: Path) -> Fault | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as stream:
            list(stream.keys())
    except (SafetensorError, OSError) as error:
        return Fault(f"this safetensors file is broken: {error}", str(path), hint="fetch the file again")
    return None


def _missing_shards(folder: Path) -> list[Fault]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, OSError) as error:
        return [Fault(f"the index of the weights can't be read: {error}", str(index), hint="fetch the model again")]
    return [
        Fault(f"the index names {name}, which is not there", str(index), hint="fetch the missing file")
        for name in sorted(shards)
        if not (folder / name).is_file()
    ]
