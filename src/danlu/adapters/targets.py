"""Which modules an adapter goes on: presets and names, checked against the model's shape alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ModelError, RecipeError
from danlu.models.decoder_start import decoder_start
from danlu.models.quiet import quiet_transformers

_ATTENTION = ("attn", "attention")


def skeleton(folder: Path, config_fields: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None) -> Any:
    """The model of a folder without weights, on the meta device: its shape, in a second.

    Args:
        folder: with a `config.json`.
        config_fields: of the text model's config, set to other values than the folder's.
        dtype: of its parameters; None: the config's.

    Raises:
        ModelError: Transformers does not know the architecture, or its decoder has no known beginning.
    """
    with quiet_transformers():
        from transformers import AutoConfig

        from danlu.models.loading import model_class

        try:
            config = AutoConfig.from_pretrained(folder)
            for name, value in (config_fields or {}).items():
                setattr(config.get_text_config(), name, value)
            with torch.device("meta"):
                model = model_class(folder).from_config(config, **({} if dtype is None else {"dtype": dtype}))
        except (ValueError, KeyError, OSError) as error:
            raise ModelError(
                Fault(
                    f"Transformers does not know this architecture: {str(error).splitlines()[0]}",
                    str(folder),
                    "a causal or encoder-decoder language model",
                    "check config.json; a newer Transformers may know it",
                )
            ) from error
    decoder_start(model)
    return model


def require_layers(model: Any, layers: Sequence[int] | None) -> None:
    """Requires that every layer index exists.

    Raises:
        RecipeError: one is past the model's last layer, or stands for an encoder's and a decoder's layer alike.
    """
    if layers is not None and model.config.is_encoder_decoder:
        raise RecipeError(
            Fault(
                "the layers of an encoder-decoder model can't be chosen: encoder and decoder count from 0 each",
                "adapter.layers_to_transform",
                "null",
                "leave the key out, and choose by adapter.target_modules",
            )
        )
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


def tied_modules(model: Any) -> list[set[str]]:
    """Full names of modules that hold the same matrix, as embeddings and a tied head do; a set for each matrix."""
    holders: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    return [modules for modules in holders.values() if len(modules) > 1]


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
