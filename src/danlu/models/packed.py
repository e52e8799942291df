"""Linear layers whose weights lie as oneDNN reads them, for answering on a processor.

A product of a few rows takes as long as its weights take to be read. Laid out as usual, MKL and oneDNN turn a part of
them round at each call; here that is done once. The numbers are the same ones.
"""

from __future__ import annotations

from typing import Any

import torch

_ROWS = 8  # that the layout is chosen for; oneDNN's is the same for all but one row
_SUPPORTED = (torch.float32, torch.bfloat16)


class PackedLinear(torch.nn.Linear):  # type: ignore[misc]
    """A linear layer that can only compute: its weight is `packed`, or, where others hold it too, as it was.

    Args:
        layer: whose weight it takes.
        packs: whether to lay the weight out anew, which takes its memory once more while others hold it.
    """

    def __init__(self, layer: torch.nn.Linear, packs: bool) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_parameter("bias", layer.bias)
        weight = layer.weight.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS) if packs else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in]` to `[..., out]`."""
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes here in this dtype."""
    if device.type != "cpu" or dtype not in _SUPPORTED or not torch.backends.mkldnn.is_available():
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linear_layers(model: Any) -> int:
    """Packs the linear layers of a model that is only to compute; those of other kinds stay.

    An output layer that shares the embeddings' matrix keeps it as it is, so that there are not two of it.

    Returns:
        How many were packed.
    """
    shared = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    names = [name for name, module in model.named_modules() if _fits(module)]
    for name in names:  # by name: a layer that is held here would stay in memory beside the packed one
        layer = model.get_submodule(name)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, PackedLinear(layer, id(layer.weight) not in shared))
    return len(names)


def _fits(module: torch.nn.Module) -> bool:
    return type(module) is torch.nn.Linear and can_pack(module.weight.device, module.weight.dtype)
