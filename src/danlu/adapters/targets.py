"""Which modules an adapter goes on: presets and names, checked against the model's shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError, RecipeError
from danlu.models.decoder_start import decoder_start
from danlu.models.quiet import quiet_transformers

_ATTENTION = ("attn", "attention")


def skeleton(folder: Path) -> Any:
    """The model of a folder without weights, on the meta device: its shape, in a second.

    Raises:
        ModelError: Transformers does not know the architecture, or its decoder has no known beginning.
    """
    with quiet_transformers():
        import torch
        from transformers import AutoConfig

        from danlu.models.loading import model_class

        try:
            config = AutoConfig.from_pretrained(folder)
            with torch.device("meta"):
                model = model_class(folder).from_config(config)
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


def resolve_targets(model: Any, target_modules: str | Sequence[str], rank: int) -> list[str]:
    """The module names (last parts) an adapter goes on.

    Args:
        model: with or without weights.
        target_modules: `all-linear`, `attention`, or names.
        rank: the adapter's rank, which must not exceed a module's smaller side.

    Raises:
        RecipeError: a name matches nothing, or the rank is above a module's size.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not output
    }
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
    sizes = [
        (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)
        for name, module in linear.items()
        if name.rsplit(".", 1)[-1] in chosen
    ]
    smallest = min(min(pair) for pair in sizes)
    if rank > smallest:
        raise RecipeError(
            Fault(
                f"rank {rank} is above the smallest chosen layer",
                "adapter.rank",
                f"1 to {smallest}",
                "16 to 64 is usual; a larger rank adds parameters, not capacity",
            )
        )
    return chosen
