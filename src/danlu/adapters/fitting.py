"""Whether an adapter fits a model, seen on the model's shape alone; what the recipe names by an end, named in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from danlu.adapters.kinds import Adapter, Ia3, Loha, Lora
from danlu.adapters.targets import linear_layers, require_layers, resolve_targets, tied_modules
from danlu.errors import Fault, RecipeError

Kind = TypeVar("Kind", bound=Adapter)


def fit_adapter(model: Any, adapter: Kind, target_modules: str | Sequence[str]) -> tuple[Kind, list[str]]:
    """Checks an adapter against a model.

    Args:
        model: with or without weights.
        adapter: as in the recipe.
        target_modules: `all-linear`, `attention`, or names.

    Returns:
        The adapter for `add_adapter`, and the names (last parts) of the modules that it goes on. Where two ends of a
        pattern match the same module, the longer counts; then the pattern has full names, since PEFT sorts what it
        saves and takes the first. Embeddings and head that are one matrix are trained as one.

    Raises:
        RecipeError: something names nothing, or is not for these layers; a fault for each.
    """
    names = resolve_targets(model, target_modules)
    require_layers(model, adapter.layers_to_transform)
    adapted = _adapted(model, names, adapter.layers_to_transform)
    saved, faults = _saved(model, adapted, adapter)
    changes: dict[str, Any] = {"modules_to_save": saved}
    for key in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(adapter, key, None):
            faults += _unmatched(pattern, adapted, f"adapter.{key}")
            changes[key] = _unambiguous(pattern, adapted)
    faults += _transposed(adapter, adapted)
    if isinstance(adapter, Lora | Loha):
        faults += _too_high(adapter, adapted)
    if isinstance(adapter, Lora):
        faults += _untrainable_biases(model, adapter.bias, adapted)
    if isinstance(adapter, Ia3):
        faults += _not_targets(adapter.feedforward_modules, names)
    if faults:
        raise RecipeError(*faults)
    return replace(adapter, **changes), names


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


def _not_targets(wanted: Sequence[str], names: Sequence[str]) -> list[Fault]:
    return [
        Fault(
            f"{name} is none of the modules that the adapter goes on",
            "adapter.feedforward_modules",
            f"some of {', '.join(names)}",
            "take names from the list, or add it to adapter.target_modules",
        )
        for name in wanted
        if name not in names
    ]


def _unambiguous(pattern: Mapping[str, Any], adapted: Mapping[str, Any]) -> Mapping[str, Any]:
    found = {name: _ends(name, pattern) for name in adapted}
    if all(len(ends) <= 1 for ends in found.values()):
        return pattern
    return {name: pattern[ends[0]] for name, ends in found.items() if ends}


def _too_high(adapter: Lora | Loha, adapted: Mapping[str, Any]) -> list[Fault]:
    """A fault for each key whose rank is above a layer that it is for."""
    most: dict[str, int] = {}
    for name, module in adapted.items():
        key = next(iter(_ends(name, adapter.rank_pattern)), "")
        most[key] = min(most.get(key, 1 << 30), *module.weight.shape)
    return [
        Fault(
            f"rank {rank} is above the smallest chosen layer" + (f" that ends in {key}" if key else ""),
            f"adapter.rank_pattern.{key}" if key else "adapter.rank",
            f"1 to {smallest}",
            "16 to 64 is usual; a larger rank adds parameters, not capacity",
        )
        for key, smallest in most.items()
        if (rank := adapter.rank_pattern.get(key, adapter.rank)) > smallest
    ]


def _saved(model: Any, adapted: Mapping[str, Any], adapter: Adapter) -> tuple[list[str], list[Fault]]:
    """Full names of the modules that are trained whole, and what is wrong with the wanted ones."""
    wanted = adapter.modules_to_save
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
    for tied in tied_modules(model):
        if saved & tied:
            saved |= tied
            faults += _untied(model, tied, adapter)
    return sorted(saved), faults


def _untied(model: Any, tied: set[str], adapter: Adapter) -> list[Fault]:
    """A fault if PEFT would not keep them one matrix; it can with LoRA, and knows two names."""
    from peft.utils.constants import EMBEDDING_LAYER_NAMES

    known = any(name.rsplit(".", 1)[-1] in EMBEDDING_LAYER_NAMES for name in tied)
    if isinstance(adapter, Lora) and known and len(tied) == 2 and not model.config.is_encoder_decoder:
        return []
    return [
        Fault(
            f"{' and '.join(sorted(tied))} are one matrix, which PEFT would split in two",
            "adapter.modules_to_save",
            "other modules",
            "leave it out, or train the whole base: adapter=null",
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


def _transposed(adapter: Adapter, adapted: Mapping[str, Any]) -> list[Fault]:
    """A fault if PEFT can't have this adapter on weights that are stored transposed."""
    from transformers.pytorch_utils import Conv1D

    stored = [name for name, module in adapted.items() if isinstance(module, Conv1D)]
    if not stored or not (isinstance(adapter, Loha) or getattr(adapter, "init_lora_weights", "") == "olora"):
        return []
    key, allowed = ("type", "lora, ia3, vera") if isinstance(adapter, Loha) else ("init_lora_weights", "default, pissa")
    name = type(adapter).__name__.lower() if isinstance(adapter, Loha) else "olora"
    what = f"PEFT has no {name} for weights that are stored transposed, as in {stored[0]}"
    return [Fault(what, f"adapter.{key}", allowed, "take another, or target_modules without these layers")]
