"""The adapted linear layer: PEFT's own, with another way through it, on which layers that share an input are one.

It comes in by PEFT's custom modules, and what it holds are PEFT's parameters under PEFT's names. Layers in fewer bits
have theirs in `danlu.adapters.fused_quantized`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.lora.variants import DoraLinearVariant
from transformers.pytorch_utils import Conv1D

from danlu.models.quantization import dequantized, is_quantized, quantized_layers


def custom_modules(model: Any) -> dict[type, type]:
    """For PEFT, the class of each kind of linear layer that is in a base."""
    modules: dict[type, type] = {torch.nn.Linear: FusedLinear, Conv1D: FusedLinear}
    if any(quantized_layers(model)):
        from danlu.adapters.fused_quantized import FUSED_QUANTIZED

        return {**FUSED_QUANTIZED, **modules}  # PEFT takes the first that fits, and they are linear layers too
    return modules


class Fusable(LoraLayer):  # type: ignore[misc]
    """Beside one of PEFT's LoRA layers: once `shared` is set, it is computed together with what shares its input."""

    shared: SharedInput | None = None
    place = 0

    def begin(self) -> None:
        """Takes note of the first values, once they are in their dtype: here of DoRA's magnitudes, in float32."""
        if self.magnitude is not None:
            self.magnitude.data = self._norms()  # PEFT's are those of rounded weights

    def forward(self, x: torch.Tensor, *positional: Any, **named: Any) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        if self.shared is None or self.disable_adapters or self.merged or positional or named or self._drops_apart:
            output: torch.Tensor = super().forward(x, *positional, **named)
            return output
        return self.shared.output(self.place, x)

    @property
    def fusable(self) -> bool:
        """Whether this is LoRA or DoRA, with one adapter, on a linear layer that has nothing more to it."""
        names = self.active_adapters
        return (
            len(names) == 1
            and names[0] in self.lora_A
            and type(self.lora_variant.get(names[0])) in (type(None), DoraLinearVariant)
            and not self.lora_bias.get(names[0])
            and (type(self.base_layer) in (torch.nn.Linear, Conv1D) or is_quantized(self.base_layer))
        )

    @property
    def dropout(self) -> torch.nn.Module:
        """Of the adapter's input."""
        module: torch.nn.Module = self.lora_dropout[self.active_adapters[0]]
        return module

    @property
    def _drops_apart(self) -> bool:
        """Whether something is dropped that is not the input of B·A alone."""
        return (self.start is not None or self.magnitude is not None) and drops(self.dropout)

    @property
    def weights(self) -> torch.Tensor | Callable[[torch.dtype], torch.Tensor]:
        """The base's `[out, in]`; may be a transposed view, or what makes it in a dtype."""
        base = self.base_layer
        if is_quantized(base):
            return functools.partial(dequantized, base)
        weight: torch.Tensor = base.weight
        return weight.t() if isinstance(base, Conv1D) else weight

    @property
    def start(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A₀ and B₀ whose product is a part of the weights, taken off beside B·A; usually nothing."""
        return None

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[A; A₀] and [B, -B₀]."""
        name = self.active_adapters[0]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        if self.start is None:
            return down, up
        return torch.cat([down, self.start[0]]), torch.cat([up, -self.start[1]], 1)

    @property
    def trained(self) -> list[torch.Tensor]:
        """A, B, and what else is trained of this layer."""
        name = self.active_adapters[0]
        own = (self.lora_A[name].weight, self.lora_B[name].weight, self.magnitude, self.bias_after)
        return [tensor for tensor in own if tensor is not None]

    @property
    def magnitude(self) -> torch.nn.Parameter | None:
        """DoRA's m, `[out]`; None without DoRA."""
        name = self.active_adapters[0]
        return self.lora_magnitude_vector[name].weight if name in self.lora_magnitude_vector else None

    @property
    def bias_after(self) -> torch.nn.Parameter | None:
        """The base's bias, `[out]`, where it is to be added last: it is trained, or DoRA does not scale it."""
        bias = self.base_layer.bias
        return bias if bias is not None and (bias.requires_grad or self.magnitude is not None) else None

    def finish(self, output: torch.Tensor) -> torch.Tensor:
        """What follows the products: DoRA's m / ‖W + s·B·A‖ (arXiv 2402.09353, 4.3: the norm has no gradient), bias."""
        magnitude, bias = self.magnitude, self.bias_after
        finished = output if magnitude is None else output * (magnitude / self._norms())
        finished = finished if bias is None else finished + bias
        return finished.to(output.dtype)

    def _norms(self) -> torch.Tensor:
        """‖W + s·B·A‖ by output, `[out]`, float32: ‖W‖² + 2s·Σ(W·Aᵀ)∘B + s²·Σ(B·A·Aᵀ)∘B, so that no B·A is made."""
        with torch.no_grad():
            made = self.weights
            weight = made.float() if isinstance(made, torch.Tensor) else made(torch.float32)
            down, up = (factor.float() for factor in self.factors)
            scaled = up * self.scaling[self.active_adapters[0]]
            both = (2 * weight @ down.t() + scaled @ (down @ down.t())) * scaled
            return (weight.square().sum(1) + both.sum(1)).sqrt()


class FusedLinear(Fusable, Linear):  # type: ignore[misc]
    """PEFT's LoRA on a linear layer.

    PiSSA and OLoRA start from a part of the base's weights, which PEFT takes out of them. Here the base stays as it
    is and that part is taken off in passing: W·x - s·B₀·A₀·x + s·B·A·x. So the base still answers as itself, no
    bfloat16 weight is rounded again, and the adapter can be saved as one of the unchanged base.
    """

    starts_from_weights = False
    start_down: torch.Tensor | None
    start_up: torch.Tensor | None

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        for name in ("start_down", "start_up"):
            self.register_buffer(name, None, persistent=False)

    @property
    def fan_in_fan_out(self) -> bool:
        """Whether the base's weights are stored transposed; PEFT's config can't tell it for each layer."""
        return isinstance(self.get_base_layer(), Conv1D)

    @fan_in_fan_out.setter
    def fan_in_fan_out(self, _: bool) -> None:
        pass

    def pissa_init(self, adapter_name: str, init_lora_weights: str) -> None:
        """PEFT's, but for the base's weights, which stay."""
        with self._weights_kept():
            super().pissa_init(adapter_name, init_lora_weights)

    def olora_init(self, adapter_name: str) -> None:
        """PEFT's, but for the base's weights, which stay."""
        with self._weights_kept():
            super().olora_init(adapter_name)

    @contextlib.contextmanager
    def _weights_kept(self) -> Iterator[None]:
        weight = self.get_base_layer().weight
        own = weight.data.clone()
        yield
        weight.data = own
        self.starts_from_weights = True

    def begin(self) -> None:
        """Takes note of the first values, once they are in their dtype."""
        super().begin()
        if self.starts_from_weights:
            name = self.active_adapters[0]
            down, up = self.lora_A[name].weight, self.lora_B[name].weight
            down.data = down.data.clone()  # OLoRA's is a view that would keep the whole of its matrix
            self.start_down, self.start_up = down.detach().clone(), up.detach().clone()

    @property
    def start(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A₀ and B₀, where A and B started from the weights."""
        return None if self.start_down is None or self.start_up is None else (self.start_down, self.start_up)

    def forward(self, x: torch.Tensor, *positional: Any, **named: Any) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        output: torch.Tensor = super().forward(x, *positional, **named)
        if self.start is None or self.disable_adapters or self.merged or (self.shared and not self._drops_apart):
            return output
        down, up = self.start
        taken = torch.nn.functional.linear(torch.nn.functional.linear(x.to(down.dtype), down), up)
        return (output - taken * self.scaling[self.active_adapters[0]]).to(output.dtype)

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        """What the adapter adds to the weights, as they are stored."""
        delta: torch.Tensor = super().get_delta_weight(adapter)
        if self.start is None:
            return delta
        down, up = self.start
        taken = up @ down * self.scaling[adapter]
        return delta - (taken.t() if self.fan_in_fan_out else taken)


def drops(dropout: torch.nn.Module) -> bool:
    """Whether this drops anything now."""
    return isinstance(dropout, torch.nn.Dropout) and bool(dropout.p) and bool(dropout.training)


class SharedInput:
    """Adapted linears that a model calls with the same input, one after another: the first call computes all.

    Args:
        layers: in the order of their calls.
        kernel: `danlu.kernels.low_rank`.
    """

    def __init__(self, layers: Sequence[Fusable], kernel: Any) -> None:
        self._layers, self._kernel = layers, kernel
        self._input: torch.Tensor | None = None
        self._state: tuple[Any, ...] = ()
        self._waiting: dict[int, torch.Tensor] = {}

    def output(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What the layer at this place gives for x."""
        layer = self._layers[place]
        dropout = layer.dropout
        if drops(dropout):
            return self._compute([layer], x, dropout(x))[0]  # each layer drops for itself
        if x.is_inference():
            return self._compute([layer], x)[0]
        state = self._state_for(x)
        if self._input is not x or self._state != state or place not in self._waiting:
            self._waiting = dict(enumerate(self._compute(self._layers, x)))
            self._input, self._state = x, state
        output = self._waiting.pop(place)
        if not self._waiting:
            self._input = None
        return output

    def _state_for(self, x: torch.Tensor) -> tuple[Any, ...]:
        """What must not have changed for outputs to be those that x has now: a pass may have ended halfway."""
        modes = (x._version, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        names = [layer.active_adapters[0] for layer in self._layers]
        return (*modes, *names, *(tensor._version for layer in self._layers for tensor in layer.trained))

    def _compute(
        self, layers: Sequence[Fusable], x: torch.Tensor, dropped: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        outputs = self._kernel.low_rank(x, [self._of(layer) for layer in layers], dropped)
        return tuple(layer.finish(output) for layer, output in zip(layers, outputs, strict=True))

    def _of(self, layer: Fusable) -> Any:
        down, up = layer.factors
        bias = layer.base_layer.bias if layer.bias_after is None else None
        return self._kernel.LowRank(layer.weights, bias, down, up, layer.scaling[layer.active_adapters[0]])
