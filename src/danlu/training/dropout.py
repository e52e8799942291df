"""Dropout inside the base: its own where its family has some, else on what attention and MLP add to the states.

The base's own is set in its config before the weights are loaded, so that the model's code puts it where it belongs.
Families from Llama on have none on the states: there, hooks drop out what attention and MLP add, as GPT-2 does by its
`resid_pdrop`. All of it is for training mode alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from danlu.adapters.lora import base_of
from danlu.errors import Fault, RecipeError
from danlu.models.quiet import quiet_transformers

# How configs name the share that is dropped: of attention weights, of what is added to the states, of embeddings.
_ATTENTION = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout_rate")
_STATES = (
    "hidden_dropout",
    "hidden_dropout_prob",
    "resid_pdrop",
    "resid_dropout",
    "residual_dropout",
    "dropout",
    "dropout_rate",
)
_EMBEDDINGS = ("embd_pdrop", "embed_dropout", "embedding_dropout")
_OTHERS = ("activation_dropout", "layerdrop")

# The modules of a layer whose outputs are added to the states, the likelier pair first, and what may stand beside them.
_ADDED = (
    ("post_self_attn_layernorm", "post_mlp_layernorm"),  # GLM 4
    ("post_attention_layernorm", "post_feedforward_layernorm"),  # Gemma 2 and 3, OLMo 2 and 3
    ("self_attn", "mlp"),
    ("self_attn", "block_sparse_moe"),
)
_BEFORE = ("input_layernorm", "pre_feedforward_layernorm", "attention_layernorm", "feedforward_layernorm")
_KNOWN = {*_BEFORE, *(name for pair in _ADDED for name in pair)}


@dataclass(frozen=True)
class BaseDropout:
    """How a base drops out in training.

    Attributes:
        fields: of the base's config, to be set before its weights are loaded.
        added: share that hooks drop of what attention and MLP add to the states; 0: no hooks.
    """

    fields: Mapping[str, float]
    added: float = 0.0

    @classmethod
    def of(cls, shape: Any, attention: float | None, hidden: float | None) -> BaseDropout:
        """What a recipe's shares mean for a family of models.

        Args:
            shape: the base, with or without weights.
            attention: share of the attention weights; None: as the base's config says.
            hidden: share of what attention and MLP add, and of embeddings where the family drops them out; None: as
                the base's config says.

        Raises:
            RecipeError: the family has no such dropout.
        """
        if attention is None and hidden is None:
            return cls({})
        taken = _taken_fields(shape)
        of_attention = [name for name in _ATTENTION if name in taken]
        of_states = [name for name in _STATES if name in taken]
        if attention != hidden and set(of_attention) & set(of_states):
            raise _fault("attention", "has one dropout for attention and states", "the same share for both")
        if attention and not of_attention:
            raise _fault("attention", "drops out no attention weights", "null or 0")
        if hidden and not of_states and not added_by(shape):
            raise _fault("hidden", "drops out no states, and adds to them in a way that is not known here", "null or 0")
        fields = {} if attention is None else dict.fromkeys(of_attention, attention)
        if hidden is not None and of_states:
            fields |= dict.fromkeys([*of_states, *(name for name in _EMBEDDINGS if name in taken)], hidden)
        return cls(fields, 0.0 if of_states or hidden is None else hidden)

    def put_in(self, model: Any) -> Callable[[], None]:
        """Puts the hooks into a model, with an adapter or without, as it is computed; gives back what removes them."""
        hooks = [module.register_forward_hook(self._drop) for module in added_by(model) if self.added]

        def off() -> None:
            for hook in hooks:
                hook.remove()

        return off

    def _drop(self, module: Any, _given: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # attention weights or a router's choice come behind
            return (self._drop(module, _given, output[0]), *output[1:])
        return torch.nn.functional.dropout(output, self.added, module.training)


def drops_out(config: Any) -> bool:
    """Whether a base with this config drops anything out in training."""
    text = config.get_text_config()
    return any(getattr(text, name, 0) for name in (*_ATTENTION, *_STATES, *_EMBEDDINGS, *_OTHERS))


def added_by(model: Any) -> list[torch.nn.Module]:
    """The modules whose outputs are added to the states, two a layer; none if one layer is not known to be such."""
    modules = []
    for layer in getattr(base_of(model).get_decoder(), "layers", ()):
        children = dict(layer.named_children())
        pair = next((pair for pair in _ADDED if children.keys() >= set(pair)), None)
        if pair is None or not children.keys() <= _KNOWN:
            return []
        modules += [children[name] for name in pair]
    return modules


def _taken_fields(shape: Any) -> set[str]:
    """The fields that the model's modules take a share from: a config may have some that its code never reads."""
    config = copy.deepcopy(shape.config)
    text = config.get_text_config()
    names = [name for name in dict.fromkeys((*_ATTENTION, *_STATES, *_EMBEDDINGS)) if hasattr(text, name)]
    marks = {name: (number + 1) / 1009 for number, name in enumerate(names)}  # no module has these by chance
    for name, mark in marks.items():
        setattr(text, name, mark)
    with torch.device("meta"), quiet_transformers():
        marked = type(shape)(config)
    found = {value for module in marked.modules() for value in vars(module).values() if isinstance(value, float)}
    return {name for name, mark in marks.items() if mark in found}


def _fault(key: str, message: str, allowed: str) -> RecipeError:
    hint = "leave the key out to train as the base's config says"
    return RecipeError(Fault(f"this base {message}", f"training.base_dropout.{key}", allowed, hint))
