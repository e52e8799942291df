"""The model that is trained: a base with an adapter, or the base itself with some of it frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.fitting import fit_adapter
from danlu.adapters.kinds import KINDS
from danlu.adapters.lora import add_adapter
from danlu.adapters.targets import skeleton
from danlu.errors import Fault, RecipeError
from danlu.models.loading import load_base
from danlu.models.quantization import require_quantizable
from danlu.recipe import Recipe
from danlu.recipe.training_schema import FreezeSection
from danlu.training.dropout import BaseDropout

_LAYER = re.compile(r"\.(?:layers|layer|h|block|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class ModelPlan:
    """A model that can be trained as the recipe says.

    Attributes:
        load: gives it, computing in a dtype.
        dropout: inside the base.
    """

    load: Callable[[torch.dtype], Any]
    dropout: BaseDropout


def plan_model(recipe: Recipe, base: Path, load_base: Callable[..., Any] = load_base) -> ModelPlan:
    """Checks on the model's shape alone that what the recipe asks for can be trained.

    Args:
        recipe: as it was checked.
        base: folder of the base model.
        load_base: gives the base's weights, as `danlu.models.loading.load_base` does.

    Raises:
        RecipeError: adapter, quantisation, dropout or freezing do not fit the model.
        ModelError: Transformers does not know the architecture, or the base is quantised already.
    """
    quantization, drops = recipe.model.quantization, recipe.training.base_dropout
    require_quantizable(base, quantization)
    shape = skeleton(base)
    if shape.config.is_encoder_decoder and recipe.training.neftune_noise_alpha is not None:
        what = "noise on embeddings is for decoder-only models, and this one has an encoder too"
        raise RecipeError(Fault(what, "training.neftune_noise_alpha", "null", "use training.base_dropout instead"))
    dropout = BaseDropout.of(shape, drops.attention, drops.hidden)
    adapter = recipe.adapter

    def load(dtype: torch.dtype) -> Any:
        return load_base(base, dtype, quantization=quantization, config_fields=dropout.fields)

    if adapter is None:
        frozen = frozen_names(shape, recipe.training.freeze)
        return ModelPlan(lambda dtype: freeze(load(dtype), frozen), dropout)
    wanted = KINDS[adapter.type](**adapter.model_dump(exclude={"type", "target_modules"}))
    fitted, targets = fit_adapter(shape, wanted, adapter.target_modules)
    return ModelPlan(lambda dtype: add_adapter(load(dtype), fitted, targets, recipe.run.seed), dropout)


def frozen_names(model: Any, section: FreezeSection) -> list[str]:
    """Names of the parameters that stay as they are.

    Args:
        model: with or without weights.
        section: what to freeze.

    Raises:
        RecipeError: a pattern matches nothing, there are fewer layers, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    embeddings = model.get_input_embeddings().weight
    frozen = {name for name, parameter in model.named_parameters() if section.embeddings and parameter is embeddings}
    num_layers = model.config.get_text_config().num_hidden_layers
    if section.first_layers > num_layers:
        raise RecipeError(
            Fault(
                f"the model has {num_layers} layers, not {section.first_layers}",
                "training.freeze.first_layers",
                f"0 to {num_layers}",
                "freeze fewer",
            )
        )
    frozen |= {name for name in names if _layer(name) < section.first_layers}
    for pattern in section.modules:
        found = [name for name in names if re.search(pattern, name)]
        if not found:
            raise RecipeError(
                Fault(
                    f"`{pattern}` matches no parameter",
                    "training.freeze.modules",
                    f"a part of a name such as {names[0]}, {names[-1]}",
                    "it is a regular expression, searched in each parameter's name",
                )
            )
        frozen |= set(found)
    if len(frozen) == len(names):
        raise RecipeError(Fault("all parameters are frozen", "training.freeze", hint="freeze fewer of them"))
    return sorted(frozen)


def _layer(name: str) -> float:
    """Number of the layer that a parameter is in; infinite outside of layers."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else float("inf")


def freeze(model: Any, names: Sequence[str]) -> Any:
    """Trains all parameters but those named."""
    frozen = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    return model
