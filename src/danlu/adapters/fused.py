"""Fused layers, put into a model and taken out: adapted linears that share an input, norms, gated MLPs.

Linears are there already (see `danlu.adapters.linear`). Norms and MLPs are replaced as submodules, and only where the
reference of the kernel gives exactly what the model's module gives. Names of parameters stay what they are. Without
`danlu.kernels` nothing is fused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from danlu.adapters.linear import Fusable, SharedInput
from danlu.adapters.lora import base_of
from danlu.models.quantization import is_quantized
from danlu.models.quiet import quiet_transformers


class FusedNorm(torch.nn.Module):  # type: ignore[misc]
    """A root-mean-square norm in the model's own formula."""

    def __init__(self, norm: Any, style: str, kernel: Any) -> None:
        super().__init__()
        self.weight = norm.weight
        self._epsilon, self._style, self._kernel = _epsilon(norm), style, kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., size]` to the same."""
        normed: torch.Tensor = self._kernel.rms_norm(x, self.weight, self._epsilon, self._style)
        return normed


class FusedMlp(torch.nn.Module):  # type: ignore[misc]
    """A gated MLP with the children of the model's own."""

    def __init__(self, mlp: Any, activation: str, kernel: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = mlp.act_fn
        self._activation, self._kernel = activation, kernel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., size]` to the same."""
        product = self._kernel.gated(self.gate_proj(x), self.up_proj(x), self._activation)
        down: torch.Tensor = self.down_proj(product)
        return down


@dataclass
class Fused:
    """What was fused.

    Attributes:
        adapted: number of adapted layers in the model.
        linears: of those, number that are fused.
        norms: their number.
        mlps: their number.
        undo: each takes one thing out again.
    """

    adapted: int = 0
    linears: int = 0
    norms: int = 0
    mlps: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)

    def off(self) -> None:
        """Gives the model back the layers that it had."""
        for step in reversed(self.undo):
            step()


def fuse(model: Any) -> Fused:
    """Fuses what can be fused in a model, PEFT's wrapped one or a plain one.

    Raises:
        ImportError: there are no kernels.
    """
    from danlu.kernels import gated, low_rank, rms_norm

    fused = Fused(sum(isinstance(module, BaseTunerLayer) for module in model.modules()))
    try:
        with _evaluating(model):
            for group in _groups(model):
                _share(fused, group, low_rank)
            for parent, name, module in _children(model):
                if style := _norm_style(module, rms_norm):
                    _put_in(fused, parent, name, FusedNorm(module, style, rms_norm))
                    fused.norms += 1
                elif activation := _activation(module, gated, base_of(model).dtype):
                    _put_in(fused, parent, name, FusedMlp(module, activation, gated))
                    fused.mlps += 1
    except Exception:
        fused.off()  # all or nothing
        raise
    return fused


def fuse_shape(model: Any) -> Fused:
    """Fuses a model on the meta device, which has no values to prove anything by, as if every proof held.

    Raises:
        ImportError: there are no kernels.
    """
    from danlu.kernels import gated, low_rank, rms_norm

    fused = Fused(sum(isinstance(module, BaseTunerLayer) for module in model.modules()))
    for group in _groups(model):
        _share(fused, group, low_rank)
    for parent, name, module in _children(model):
        if _is_norm(module):
            _put_in(fused, parent, name, FusedNorm(module, rms_norm.STYLES[0], rms_norm))
            fused.norms += 1
        elif _is_gated_mlp(module):
            _put_in(fused, parent, name, FusedMlp(module, gated.ACTIVATIONS[0], gated))
            fused.mlps += 1
    return fused


def _share(fused: Fused, group: Sequence[Fusable], kernel: Any) -> None:
    shared = SharedInput(group, kernel)
    for place, layer in enumerate(group):
        layer.shared, layer.place = shared, place
        fused.undo.append(lambda layer=layer: setattr(layer, "shared", None))  # type: ignore[misc]
        fused.linears += 1


def _put_in(fused: Fused, parent: Any, name: str, replacement: torch.nn.Module) -> None:
    module = getattr(parent, name)
    setattr(parent, name, replacement)
    fused.undo.append(lambda: setattr(parent, name, module))


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Nothing is dropped out meanwhile; then each module is in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _children(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """Parent, name and module of all modules that are in one place alone, as the model is now."""
    found: dict[int, list[tuple[Any, str, Any]]] = {}
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            found.setdefault(id(module), []).append((parent, name, module))
    for places in found.values():
        if len(places) == 1:
            yield places[0]


def _groups(model: Any) -> list[list[Fusable]]:
    """Adapted layers in the groups that share an input, seen in a short forward pass."""
    calls: list[tuple[Fusable, torch.Tensor]] = []

    def note(module: Any, positional: tuple[Any, ...]) -> None:
        calls.append((module, positional[0]))

    layers = [module for module in model.modules() if isinstance(module, Fusable) and module.fusable]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    base = base_of(model)
    inputs = dict(base.dummy_inputs)
    if base.config.is_encoder_decoder:
        inputs.setdefault("decoder_input_ids", inputs["input_ids"])
    if base.device.type == "meta":
        inputs |= given_masks(base)
    try:
        with torch.no_grad(), quiet_transformers():
            base(**{name: tensor.to(base.device) for name, tensor in inputs.items()}, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    called = [layer for layer, _ in calls]
    groups: list[list[Fusable]] = []
    for number, (layer, x) in enumerate(calls):
        if called.count(layer) > 1:
            continue  # called again with something else: it stands alone, and what follows it too
        before = calls[number - 1] if number else None
        if groups and before and before[0] is groups[-1][-1] and before[1] is x:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def given_masks(base: Any) -> dict[str, torch.Tensor]:
    """Masks that Transformers takes as they are; to make its own it would look at values, and there are none."""
    mask = torch.ones(1, 1, 1, 1, dtype=base.dtype, device=base.device)
    names = ("attention_mask", "decoder_attention_mask") if base.config.is_encoder_decoder else ("attention_mask",)
    return dict.fromkeys(names, mask)


def _epsilon(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)) or 0.0)


def _probe(size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(3, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _given_by(module: Any, x: torch.Tensor) -> Any:
    """The module's output for x alone; None if it wants more than x, as gated norms do."""
    try:
        return module(x)
    except (TypeError, AttributeError):
        return None


def _equal(found: torch.Tensor, expected: Any) -> bool:
    return isinstance(expected, torch.Tensor) and torch.equal(found, expected)


def _is_norm(module: Any) -> bool:
    """Whether this looks like a frozen root-mean-square norm."""
    weight = getattr(module, "weight", None)
    named = type(module).__name__.endswith("RMSNorm")
    return named and weight is not None and weight.dim() == 1 and not weight.requires_grad


def _is_gated_mlp(module: Any) -> bool:
    """Whether this looks like a gated MLP of linear layers."""
    children = dict(module.named_children())
    if not type(module).__name__.endswith("MLP") or set(children) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return False
    return isinstance(getattr(children["gate_proj"], "base_layer", children["gate_proj"]), torch.nn.Linear)


def _norm_style(module: Any, kernel: Any) -> str | None:
    """The formula whose reference gives exactly what this module gives; None if it is no such norm."""
    if not _is_norm(module):
        return None
    weight = module.weight
    x = _probe(len(weight), weight.device, weight.dtype)
    with torch.no_grad():
        expected = _given_by(module, x)
        for style in kernel.STYLES:
            if _equal(kernel.plain_rms_norm(x, weight, _epsilon(module), style), expected):
                return str(style)
    return None


def _activation(module: Any, kernel: Any, dtype: torch.dtype) -> str | None:
    """The activation with which this is exactly a gated MLP; None if it is none. Quantised, it computes in `dtype`."""
    if not _is_gated_mlp(module):
        return None
    layer = getattr(module.gate_proj, "base_layer", module.gate_proj)
    weight = layer.weight
    x = _probe(layer.in_features, weight.device, dtype if is_quantized(layer) else weight.dtype)
    with torch.no_grad():
        expected = _given_by(module, x)
        for activation in kernel.ACTIVATIONS:
            product = kernel.plain_gated(module.gate_proj(x), module.up_proj(x), activation)
            if _equal(module.down_proj(product), expected):
                return str(activation)
    return None
