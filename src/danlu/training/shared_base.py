"""One base for several adapters in turn: loaded once, and given back as it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.biases import own_biases
from danlu.adapters.lora import base_of
from danlu.models.loading import load_base
from danlu.models.quantization import dequantize_to
from danlu.recipe.model_schema import Quantization
from danlu.training.machine import release_memory
from danlu.training.trained import base_hash


class SharedBase:
    """Lends a base to one run after another; there is never more than one in memory."""

    def __init__(self) -> None:
        self._model: Any = None  # while it is not lent
        self._wanted: tuple[Any, ...] = ()
        self._hashes: dict[Path, str] = {}

    def sha256(self, folder: Path) -> str:
        """`base_hash` of the folder as it was when this was first asked."""
        if folder not in self._hashes:
            self._hashes[folder] = base_hash(folder)
        return self._hashes[folder]

    def load(
        self,
        folder: Path,
        dtype: torch.dtype,
        quantization: Quantization | None = None,
        config_fields: Mapping[str, Any] | None = None,
    ) -> Any:
        """As `load_base`; the model of the last run if it was given back and would be loaded in the same way."""
        wanted = (folder, dtype, quantization, dict(config_fields or {}))
        model, self._model = (self._model if wanted == self._wanted else None), None
        release_memory()
        if model is None:
            model = load_base(folder, dtype, quantization=quantization, config_fields=config_fields)
            self._note(model)
            self._wanted = wanted
        return model

    def take_back(self, model: Any) -> None:
        """Takes a base that was lent and not changed; `give_back` is for one that was trained on."""
        self._model = model

    def let_go(self) -> None:
        """Keeps no base, for one that is loaded elsewhere."""
        self._model = None
        release_memory()

    def _note(self, model: Any) -> None:
        """What a run may change, as it is now."""
        self._children = [(module, dict(module.named_children())) for module in model.modules()]
        self._dtypes = {name: tensor.dtype for name, tensor in _tensors(model).items()}
        self._trainable = {name: one.requires_grad for name, one in model.named_parameters()}
        self._biases = own_biases(model)

    def give_back(self, tuned: Any) -> None:
        """Takes the adapter off, and from the base what the run did to it.

        Args:
            tuned: PEFT's wrapped model, once the session has taken itself apart. Not to be used any more.
        """
        model = base_of(tuned)
        tuned.unload()
        for module, children in self._children:  # PEFT leaves what was trained whole in the place of the base's own
            module._modules.update(children)
        with torch.no_grad():
            for bias, own in self._biases:
                bias.data = own.clone()
        dequantize_to(model, self._wanted[1])
        for name, tensor in _tensors(model).items():
            # The probes were answered in float32 too, which holds every narrower number: rounding gives it back.
            if tensor.dtype != self._dtypes[name]:
                tensor.data = tensor.data.to(self._dtypes[name])
        for name, parameter in model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(self._trainable[name])
        self._model = model.eval()


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
