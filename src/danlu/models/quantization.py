"""Bases in fewer bits, by bitsandbytes: NF4 and FP4 (QLoRA, arXiv 2305.14314), int8 (LLM.int8(), arXiv 2208.07339).

Only the weights of linear layers are kept so; embeddings, norms and the output head stay as they are. A layer's
weights are made anew, in the dtype that is computed in, each time they are multiplied. A base in fewer bits thus is
the base that has those weights: what is trained on it is what a merge of them with the adapter says.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ModelError, RecipeError
from danlu.models.folder import model_config
from danlu.recipe.model_schema import EightBitQuantization, Quantization

_FOUR_BITS, _EIGHT_BITS = "Params4bit", "Int8Params"


def require_quantizable(folder: Path, quantization: Quantization | None) -> None:
    """Requires a base whose weights are plain, and bitsandbytes if they are to be kept in fewer bits.

    Raises:
        ModelError: the folder's weights are quantised already.
        RecipeError: bitsandbytes is not installed.
    """
    already = model_config(folder).get("quantization_config")
    if already:
        raise ModelError(
            Fault(
                f"the base's weights are quantised already ({already.get('quant_method', 'no method named')})",
                str(folder / "config.json"),
                "a base in float32, bfloat16 or float16",
                "name the model's plain version; model.quantization: {type: nf4} keeps it in four bits",
            )
        )
    if quantization is not None and find_spec("bitsandbytes") is None:
        raise RecipeError(
            Fault(
                "a quantised base needs bitsandbytes, which is not installed",
                "model.quantization",
                hint="pip install 'danlu[quantization]', or set model.quantization=null",
            )
        )


def library_config(quantization: Quantization, dtype: torch.dtype) -> Any:
    """What Transformers is told when it loads the base.

    Args:
        quantization: of the recipe.
        dtype: in which the layers compute.
    """
    from transformers import BitsAndBytesConfig

    if isinstance(quantization, EightBitQuantization):
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
    )


def settle(model: Any) -> int:
    """Takes from a freshly loaded model what bitsandbytes would change silently.

    On a processor with AVX512-BF16, a forward pass in evaluation mode packs four-bit weights otherwise, for good:
    gradients are wrong from then on. And int8 layers would round what they multiply (see `danlu.models.int8`).

    Returns:
        The number of layers in fewer bits.
    """
    layers = [layer for _, layer in quantized_layers(model)]
    for layer in layers:
        if type(layer.weight).__name__ == _FOUR_BITS:
            layer.support_avx512bf16_for_cpu = False
        else:
            from danlu.models.int8 import WeightOnlyInt8

            layer.__class__ = WeightOnlyInt8  # the same weights and state, another forward
    return len(layers)


def is_quantized(layer: Any) -> bool:
    """Whether this very layer keeps its weights in fewer bits."""
    return type(layer._parameters.get("weight")).__name__ in (_FOUR_BITS, _EIGHT_BITS)


def quantized_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and layer of all linear layers in fewer bits."""
    return ((name, module) for name, module in model.named_modules() if is_quantized(module))


def dequantized(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """The weights that a quantised layer stands for, rounded to the dtype once.

    Returns:
        `[out, in]`, a new tensor.
    """
    weight = layer.weight
    if type(weight).__name__ == _FOUR_BITS:
        from bitsandbytes.functional import dequantize_4bit

        state = copy.copy(weight.quant_state)
        state.dtype = dtype
        four_bits: torch.Tensor = dequantize_4bit(weight.data, state)
        return four_bits
    largest = layer.state.SCB if weight.SCB is None else weight.SCB  # of each row; bitsandbytes moves it
    return weight.data.to(dtype).mul_(largest.unsqueeze(1) / 127)


def quantized_names(model: Any, quantization: Quantization) -> list[str]:
    """Names of the layers of a model that would be kept in fewer bits, were it loaded so.

    Args:
        model: without weights, on the meta device; its layers are replaced.
        quantization: of the recipe.
    """
    from transformers.quantizers import AutoHfQuantizer

    config = library_config(quantization, torch.float32)
    AutoHfQuantizer.from_config(config, pre_quantized=False).preprocess_model(model, device_map={"": "cpu"})
    return [name for name, _ in quantized_layers(model)]


def in_fewer_bits(weight: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """What a layer's weights become if they are quantised when they are loaded.

    Args:
        weight: `[out, in]`, in the dtype that the base is loaded in, on the device that quantises.
        quantization: of the recipe.

    Returns:
        `[out, in]`, float32, on the same device.
    """
    import bitsandbytes as bnb

    size = (weight.shape[1], weight.shape[0])
    if isinstance(quantization, EightBitQuantization):
        layer = bnb.nn.Linear8bitLt(*size, bias=False, has_fp16_weights=False, device="meta")
        eight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        layer.weight = eight.to(weight.device)
    else:
        layer = bnb.nn.Linear4bit(*size, bias=False, device="meta")
        how = {"quant_type": quantization.type, "compress_statistics": quantization.double}
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, **how).to(weight.device)
    return dequantized(layer, torch.float32)


def dequantize_to(model: Any, dtype: torch.dtype) -> None:
    """Makes layers in four bits compute in another dtype; what is not quantised stays."""
    for _, layer in quantized_layers(model):
        if type(layer.weight).__name__ == _FOUR_BITS:
            layer.compute_dtype = layer.weight.quant_state.dtype = dtype


def compute_in(model: Any, dtype: torch.dtype) -> Any:
    """The same model, computing in another dtype; weights in fewer bits keep their bits.

    Returns:
        The model itself.
    """
    dequantize_to(model, dtype)
    return torch.nn.Module.to(model, dtype)  # Transformers' own `to` refuses a quantised model
