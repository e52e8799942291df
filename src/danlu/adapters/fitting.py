"""Whether an adapter fits a model, seen on the model's shape alone; what the recipe names by an end, named in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from danlu.adapters.lora import Lora
from danlu.adapters.targets import linear_layers, require_layers, resolve_targets, tied_modules
from danlu.errors import Fault, RecipeError

Value = TypeVar("Value", int, float)


def fit_lora(model: Any, lora: Lora, target_modules: str | Sequence[str]) -> tuple[Lora, list[str]]:
    """Checks a LoRA against a model.

    Args:
        model: with or without weights.
        lora: as in the recipe.
        target_modules: `all-linear`, `attention`, or names.

    Returns:
        The LoRA for `add_lora`, and the names (last parts) of the modules that it goes on. Where two ends of a pattern
        match the same module, the longer counts; then the pattern has full names, since PEFT sorts what it saves and
        takes the first. Embeddings and head that are one matrix are trained as one.

    Raises:
        RecipeError: something names nothing, or is not for these layers; a fault for each.
    """
    names = resolve_targets(model, target_modules)
    require_layers(model, lora.layers_to_transform)
    adapted = _adapted(model, names, lora.layers_to_transform)
    saved, faults = _saved(model, adapted, lora.modules_to_save)
    for key in ("rank_pattern", "alpha_pattern"):
        faults += _unmatched(getattr(lora, key), adapted, f"adapter.{key}")
    faults += _too_high(lora, adapted) + _untrainable_biases(model, lora.bias, adapted) + _transposed(lora, adapted)
    if faults:
        raise RecipeError(*faults)
    fitted = replace(
        lora,
        rank_pattern=_unambiguous(lora.rank_pattern, adapted),
        alpha_pattern=_unambiguous(lora.alpha_pattern, adapted),
        modules_to_save=saved,
    )
    return fitted, names


def _adapted(model: Any, names: Sequence[str], layers: Sequence[int] | None) -> dict[str, Any]:
    """The layers that PEFT will adapt, by full name."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    config = LoraConfig(target_modules=list(names), layers_to_transform=list(layers) if layers is not None else None)
    return {name: module for name, module in linear_layers(model).items() if check_target_module_exists(config, name)}


def _ends(name: str, ends: Iterable[str]) -> list[str]:
    """Those that the name ends in, the longest first."""
    return sorted((end for end in ends if f".{name}".endswith(f".{end}")), key=len, reverse=True)


def _last_parts(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))


def _unmatched(pattern: Mapping[str, Any], adapted: Mapping[str, Any], key: str) -> list[Fault]:
    return [
        Fault(
            f"{end} is the end of no adapted layer's name",
            f"{key}.{end}",
            f"{_last_parts(adapted)}, or more of a name, as in {next(iter(adapted))}",
            "take names from the list; they are no regular expressions",
        )
        for end in pattern
        if not any(_ends(name, [end]) for name in adapted)
    ]


def _unambiguous(pattern: Mapping[str, Value], adapted: Mapping[str, Any]) -> Mapping[str, Value]:
    found = {name: _ends(name, pattern) for name in adapted}
    if all(len(ends) <= 1 for ends in found.values()):
        return pattern
    return {name: pattern[ends[0]] for name, ends in found.items() if ends}


def _too_high(lora: Lora, adapted: Mapping[str, Any]) -> list[Fault]:
    """A fault for each key whose rank is above a layer that it is for."""
    most: dict[str, int] = {}
    for name, module in adapted.items():
        key = next(iter(_ends(name, lora.rank_pattern)), "")
        most[key] = min(most.get(key, 1 << 30), *module.weight.shape)
    return [
        Fault(
            f"rank {rank} is above the smallest chosen layer" + (f" that ends in {key}" if key else ""),
            f"adapter.rank_pattern.{key}" if key else "adapter.rank",
            f"1 to {smallest}",
            "16 to 64 is usual; a larger rank adds parameters, not capacity",
        )
        for key, smallest in most.items()
        if (rank := lora.rank_pattern.get(key, lora.rank)) > smallest
    ]


def _saved(model: Any, adapted: Mapping[str, Any], wanted: Sequence[str]) -> tuple[list[str], list[Fault]]:
    """Full names of the modules that are trained whole, and what is wrong with the wanted ones."""
    whole = [
        name
        for name, module in model.named_modules()
        if name
        and any(True for _ in module.parameters(recurse=False))
        and not any(f"{name}.".startswith(f"{layer}.") for layer in adapted)
    ]
    faults = [
        Fault(
            f"{end} is the end of no module's name that could be trained whole",
            "adapter.modules_to_save",
            f"{_last_parts(whole)}, or more of a name, as in {whole[0]}",
            "take names from the list; adapted layers are not in it",
        )
        for end in wanted
        if not any(_ends(name, [end]) for name in whole)
    ]
    saved = {name for name in whole if _ends(name, wanted)}
    if saved & (tied := tied_modules(model)):
        saved |= tied
        faults += _untied(tied)
    return sorted(saved), faults


def _untied(tied: set[str]) -> list[Fault]:
    """A fault if PEFT would not keep them one matrix."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    if any(name.rsplit(".", 1)[-1] in EMBEDDING_LAYER_NAMES for name in tied):
        return []
    return [
        Fault(
            f"{' and '.join(sorted(tied))} are one matrix, which PEFT would split in two",
            "adapter.modules_to_save",
            "other modules",
            "leave it out, or train the whole base: adapter: null",
        )
    ]


def _untrainable_biases(model: Any, bias: str, adapted: Mapping[str, Any]) -> list[Fault]:
    named = [name for name, _ in model.named_parameters() if f".{name}".endswith(".bias")]
    owners = adapted if bias == "lora_only" else [name.rsplit(".", 1)[0] for name in named]
    if bias == "none" or any(f"{owner}.bias" in named for owner in owners):
        return []
    allowed = "none" if not named else "none, or all"
    what = "the model has no biases" if not named else "no adapted layer has a bias"
    return [Fault(what, "adapter.bias", allowed, f"set adapter.bias to {allowed}")]


def _transposed(lora: Lora, adapted: Mapping[str, Any]) -> list[Fault]:
    from transformers.pytorch_utils import Conv1D

    stored = [name for name, module in adapted.items() if isinstance(module, Conv1D)]
    if lora.init_lora_weights != "olora" or not stored:
        return []
    return [
        Fault(
            f"OLoRA does not start on weights that are stored transposed, as in {stored[0]}",
            "adapter.init_lora_weights",
            "default, gaussian, orthogonal, pissa, pissa_niter_N",
            "pissa starts from the weights too",
        )
    ]
