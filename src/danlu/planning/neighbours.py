"""What lies beside a recipe: another method, another micro-batch, layers computed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from danlu.recipe import Recipe
from danlu.recipe.adapter_schema import LoraSection
from danlu.recipe.model_schema import FourBitQuantization
from danlu.recipe.training_schema import FreezeSection


@dataclass(frozen=True)
class Neighbour:
    """A recipe that differs in one thing.

    Attributes:
        name: `full`, `lora`, `qlora`, `smaller micro-batch`, `checkpointed`, `smallest`.
        change: what to type after the recipe.
        recipe: with it.
    """

    name: str
    change: str
    recipe: Recipe


def neighbours_of(recipe: Recipe, micro_batch_tokens: int) -> list[Neighbour]:
    """The three methods, then less memory by a smaller micro-batch, by checkpointing, by all of it with QLoRA.

    Args:
        recipe: the recipe.
        micro_batch_tokens: what it comes to here.
    """
    lora = recipe.adapter or LoraSection(type="lora")
    if not isinstance(lora, LoraSection) or lora.init_lora_weights != "default":
        lora = LoraSection(type="lora")
    plain = {"model.quantization": None, "training.freeze": FreezeSection()}
    four_bits = FourBitQuantization(type="nf4")
    few_tokens = max(1, micro_batch_tokens // 2)
    smaller = {"training.micro_batch_tokens": few_tokens}
    again = {"training.activation_checkpointing": 1.0}
    qlora = {**plain, "model.quantization": four_bits, "adapter": lora}
    return [
        _changed("full", "adapter=null model.quantization=null", recipe, {**plain, "adapter": None}),
        _changed("lora", "adapter='{type: lora}' model.quantization=null", recipe, {**plain, "adapter": lora}),
        _changed("qlora", "model.quantization='{type: nf4}'", recipe, qlora),
        _changed("smaller micro-batch", f"training.micro_batch_tokens={few_tokens}", recipe, smaller),
        _changed("checkpointed", "training.activation_checkpointing=1", recipe, again),
        _changed(
            "smallest",
            f"model.quantization='{{type: nf4}}' training.activation_checkpointing=1 "
            f"training.micro_batch_tokens={few_tokens}",
            recipe,
            {**qlora, **smaller, **again},
        ),
    ]


def _changed(name: str, change: str, recipe: Recipe, values: dict[str, Any]) -> Neighbour:
    """The recipe with other values, which are known to be right."""
    sections: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name_in = key.partition(".")
        if dot:
            sections.setdefault(section, {})[name_in] = value
        else:
            top[section] = value
    for section, update in sections.items():
        top[section] = getattr(recipe, section).model_copy(update=update)
    return Neighbour(name, change, recipe.model_copy(update=top))
