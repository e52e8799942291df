"""Which modules an adapter goes on: presets and names, checked against the model's shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ModelError, RecipeError
from danlu.models.quiet import quiet_transformers

_ATTENTION = ("attn", "attention")


def skeleton(folder: Path) -> Any:
    """The model of a folder without weights, on the meta device: its shape, in a second.

    Raises:
        ModelError: Transformers does not know the architecture.
    """
    with quiet_transformers():
        from transformers import AutoConfig, AutoModelForCausalLM

        try:
            config = AutoConfig.from_pretrained(folder)
            with torch.device("meta"):
                return AutoModelForCausalLM.from_config(config)
        except (ValueError, KeyError, OSError) as error:
            raise ModelError(
                Fault(
                    f"Transformers does not know this architecture: {str(error).splitlines()[0]}",
                    str(folder),
                    "a causal language model",
                    "check config.json; a newer Transformers may know it",
                )
            ) from error


def require_layers(model: Any, layers: Sequence[int] | None) -> None:
    """Requires that every layer index exists.

    Raises:
        RecipeError: one is past the model's last layer.
    """
    count = model.config.get_text_config().num_hidden_layers
    if layers is not None and max(layers) >= count:
        raise RecipeError(
            Fault(
                f"the model has no layer {max(layers)}",
                "adapter.layers_to_transform",
                f"0 to {count - 1}",
                "name layers that the model has, or leave the key out for all of them",
            )
        )


def linear_layers(model: Any) -> dict[str, Any]:
    """Linear layers by full name, without the output layer."""
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    }


def tied_modules(model: Any) -> set[str]:
    """Full names of the token embeddings and the head where they are one matrix; else nothing."""
    head = model.get_output_embeddings()
    if head is None or not getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        return set()
    one = (model.get_input_embeddings(), head)
    return {name for name, module in model.named_modules() if any(module is other for other in one)}


def resolve_targets(model: Any, target_modules: str | Sequence[str]) -> list[str]:
    """The module names (last parts) an adapter goes on.

    Args:
        model: with or without weights.
        target_modules: `all-linear`, `attention`, or names.

    Raises:
        RecipeError: a name matches nothing.
    """
    linear = linear_layers(model)
    short = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if target_modules == "all-linear":
        chosen = short
    elif target_modules == "attention":
        chosen = sorted({name.rsplit(".", 1)[-1] for name in linear if any(a in name.lower() for a in _ATTENTION)})
    else:
        chosen = sorted(set(target_modules))
    unknown = [name for name in chosen if name not in short]
    if unknown or not chosen:
        raise RecipeError(
            Fault(
                f"adapter.target_modules: {', '.join(unknown) or target_modules} matches no linear layer of the model",
                "adapter.target_modules",
                f"all-linear, attention, or some of {', '.join(short)}",
                "use all-linear, or take names from the list",
            )
        )
    return chosen
