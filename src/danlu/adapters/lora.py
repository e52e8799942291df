"""Adapters through PEFT: put on a base, saved, loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.biases import OwnBiases, answer_as_base, own_biases
from danlu.adapters.kinds import Adapter, Lora
from danlu.adapters.targets import linear_layers, tied_modules
from danlu.errors import Fault, FolderError
from danlu.models.quiet import quiet_transformers


def add_adapter(model: Any, adapter: Adapter, target_modules: Sequence[str], seed: int) -> Any:
    """Puts a fresh adapter on every chosen module; the base is frozen, the adapter is float32.

    Args:
        model: the base, in evaluation mode.
        adapter: as `fit_adapter` gave it, where it names modules or patterns.
        target_modules: from `fit_adapter`.
        seed: of the first values, with which the model answers as its base.

    Returns:
        PEFT's wrapped model. Its `disable_adapter()` gives the base's answers, whatever is trained.
    """
    from peft import get_peft_model

    from danlu.adapters.linear import Fusable, custom_modules

    task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    tied = any(not modules.isdisjoint(adapter.modules_to_save) for modules in tied_modules(model))
    config = adapter.peft_config(target_modules, task_type, tied, seed)
    if isinstance(adapter, Lora):
        # PEFT's own way in for other layers; `danlu.adapters.fused` may later compute them together.
        config._register_custom_module(custom_modules(model))
    biases = own_biases(model)
    torch.manual_seed(seed)
    with quiet_transformers():
        tuned = get_peft_model(model, config)
    for layer in tuned.modules():
        if isinstance(layer, Fusable):
            layer.begin()
    return _with_base_answers(tuned, biases)


def base_of(model: Any) -> Any:
    """The Transformers model inside PEFT's wrapped one; a model without an adapter is its own."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trainable and total number of parameters."""
    sizes = [(_size(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def _size(parameter: Any) -> int:
    """Numbers in a parameter; two of four bits lie in one byte, as bitsandbytes keeps them."""
    kept = getattr(parameter, "quant_state", None)
    count: int = parameter.numel() if kept is None else kept.shape.numel()
    return count


def save_adapter(model: Any, folder: Path, base_name: str, whole: Mapping[str, Any] | None = None) -> None:
    """Writes the adapter in PEFT's format; plain PEFT and vLLM load it as it is.

    Args:
        model: PEFT's wrapped model.
        folder: to write to.
        base_name: what the adapter's config calls its base.
        whole: trained tensors by name, where the model itself holds shards of them.
    """
    from danlu.adapters.conversion import told_as_lora

    for config in model.peft_config.values():
        config.base_model_name_or_path = base_name
    with quiet_transformers(), told_as_lora(model, whole or {}) as state:
        # Embeddings are saved if they are trained whole; left to decide, PEFT would look the base up on a hub.
        model.save_pretrained(folder, state_dict=state, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load_adapter(model: Any, folder: Path, assign: bool = False) -> Any:
    """Puts a saved adapter on its base.

    Args:
        model: the base.
        folder: of the adapter.
        assign: its tensors take the place of the model's, as for a base without weights, instead of being copied in.

    Returns:
        PEFT's wrapped model, in evaluation mode. Its `disable_adapter()` gives the base's answers.

    Raises:
        FolderError: the folder holds no adapter, a broken one, one with NaN, or one for another base.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    check_adapter_folder(folder)
    _require_modules(model, folder)
    biases = own_biases(model)
    with quiet_transformers():
        try:
            place = {"low_cpu_mem_usage": True, "torch_device": str(model.device)} if assign else {}
            tuned = PeftModel.from_pretrained(model, folder, is_trainable=False, **place)
        except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
            raise FolderError(
                Fault(
                    f"the adapter does not fit this base: {str(error).splitlines()[0]}",
                    str(folder),
                    "an adapter that was trained on this base",
                    "name the base it was trained on in model.name",
                )
            ) from error
    _require_all_tensors(tuned, folder)
    return _with_base_answers(tuned, biases).eval()


def _with_base_answers(tuned: Any, biases: OwnBiases) -> Any:
    if getattr(tuned.active_peft_config, "bias", "none") != "none":
        answer_as_base(tuned, biases)
    return tuned


def _require_modules(model: Any, folder: Path) -> None:
    """Requires that the adapter's modules are in the base; another family has other names."""
    targets = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("target_modules")
    ends = {name.rsplit(".", 1)[-1] for name in linear_layers(model)}
    if isinstance(targets, list) and ends.isdisjoint(name.rsplit(".", 1)[-1] for name in targets):
        raise FolderError(
            Fault(
                f"the adapter does not fit this base: it goes on {', '.join(sorted(targets))}, none of which is there",
                str(folder),
                f"an adapter on some of {', '.join(sorted(ends))}",
                "name the base it was trained on in model.name",
            )
        )


def _require_all_tensors(tuned: Any, folder: Path) -> None:
    """Requires that file and model have the same adapter tensors; PEFT itself passes over those of other layers."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as stream:
        saved = set(stream.keys())
    odd = sorted(saved ^ set(get_peft_model_state_dict(tuned, save_embedding_layers=False)))
    if odd:
        raise FolderError(
            Fault(
                f"the adapter does not fit this base: {len(odd)} tensors are only in one of them, first {odd[0]}",
                str(folder),
                "an adapter that was trained on this base",
                "name the base it was trained on in model.name",
            )
        )


def check_adapter_folder(folder: Path) -> dict[str, torch.Tensor]:
    """Requires a PEFT adapter in safetensors whose values are all finite.

    Returns:
        Its tensors by their names in the file.

    Raises:
        FolderError: a file is missing or broken, or a value is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights = folder / "adapter_model.safetensors"
    for path in (folder / "adapter_config.json", weights):
        if not path.is_file():
            raise FolderError(
                Fault(
                    f"the adapter has no {path.name}",
                    str(folder),
                    "adapter_config.json, adapter_model.safetensors",
                    "name a run that was trained to its end, or its adapter folder",
                )
            )
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors: dict[str, torch.Tensor] = load_file(weights)
    except (ValueError, SafetensorError) as error:
        raise FolderError(
            Fault(f"the adapter is broken: {error}", str(folder), hint="copy it again, or train anew")
        ) from error
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise FolderError(
            Fault(
                f"the adapter has NaN or infinite values, first in {bad[0]}",
                str(weights),
                hint="use an earlier checkpoint, or train with a smaller learning rate",
            )
        )
    return tensors
