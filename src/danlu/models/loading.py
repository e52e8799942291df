"""Loading a base model in the dtype that this processor is good at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ModelError, RecipeError
from danlu.models.folder import is_encoder_decoder
from danlu.models.quantization import dequantized, library_config, quantized_layers, settle
from danlu.models.quiet import quiet_transformers
from danlu.recipe.model_schema import Quantization

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device() -> torch.device:
    """The first GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a recipe's `model.dtype`; `auto` is bfloat16 where the hardware multiplies in it."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capabilities = torch.cpu.get_capabilities()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16")
    return torch.bfloat16 if fast else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def require_dtype(name: str, device: torch.device) -> None:
    """Requires hardware that multiplies in the dtype of a recipe's `model.dtype`, where it was asked for by name.

    Raises:
        RecipeError: float16 on a processor that would only emulate it.
    """
    capabilities = torch.cpu.get_capabilities()
    known = any(capabilities.get(flag) for flag in ("avx512_fp16", "amx_fp16", "fp16_arith"))
    if name == "float16" and device.type == "cpu" and not known:
        raise RecipeError(
            Fault(
                "this processor does not multiply in float16",
                "model.dtype",
                "auto, bfloat16, float32; float16 on a GPU, or with AVX512-FP16, AMX-FP16 or ARM's FP16",
                "set model.dtype=auto: bfloat16 where the processor has it, else float32",
            )
        )


def model_class(folder: Path) -> Any:
    """What of Transformers loads the folder's model: as an encoder-decoder one or as a causal language model."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(folder) else AutoModelForCausalLM


def load_base(
    folder: Path,
    dtype: torch.dtype,
    attention: str | None = None,
    quantization: Quantization | None = None,
    config_fields: Mapping[str, Any] | None = None,
) -> Any:
    """The language model of a checked folder, in evaluation mode.

    Args:
        folder: from `find_model`.
        dtype: of all weights; of a quantised base, what it computes in.
        attention: a name in Transformers' attention interface; None: SDPA, or eager where a model's attention has
            more to it than SDPA computes.
        quantization: keeps linear layers in fewer bits (see `danlu.models.quantization`).
        config_fields: of the text model's config, set to other values than the folder's.

    Raises:
        ModelError: Transformers does not know the architecture or lacks a package for it, weights are missing from
            the files, or there is nothing in it to quantise.
    """
    fewer_bits = {"quantization_config": library_config(quantization, dtype)} if quantization else {}
    named = {"dtype": dtype, "attn_implementation": attention, **fewer_bits}
    model, info = _from_pretrained(folder, config_fields or {}, named)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            Fault(
                f"{len(missing)} tensors are missing from the weights, first {missing[0]}",
                str(folder),
                hint="the files and config.json do not belong together: fetch the model again",
            )
        )
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_in_one_piece)
    if quantization and not settle(model):
        raise ModelError(
            Fault(
                "none of this model's linear layers can be quantised",
                str(folder),
                hint="set model.quantization=null",
            )
        )
    device = choose_device()  # bitsandbytes has put its layers there already, and some can't be moved
    return (model if model.device.type == device.type else model.to(device)).eval()


def _from_pretrained(folder: Path, config_fields: Mapping[str, Any], named: Mapping[str, Any]) -> tuple[Any, Any]:
    """The model, and what Transformers says of its loading; `named` is for Transformers."""
    with quiet_transformers():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(folder)
            for name, value in config_fields.items():
                setattr(config.get_text_config(), name, value)
            return model_class(folder).from_pretrained(  # type: ignore[no-any-return]
                folder, config=config, use_safetensors=True, output_loading_info=True, **named
            )
        except ImportError as error:
            what = f"Transformers can't load this model: {error}"
            hint = "take a merged export; `danlu generate` takes each by the engine that its files are for"
            raise ModelError(Fault(what, str(folder), hint=hint)) from error
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                Fault(
                    f"Transformers can't load this model: {message}",
                    str(folder),
                    "a causal or encoder-decoder language model that the installed Transformers knows",
                    "check config.json and the weights; a newer Transformers may know the model",
                )
            ) from error


def load_plain(folder: Path, dtype: torch.dtype, quantization: Quantization | None = None) -> Any:
    """The weights of `load_base` with the same arguments, in a float32 model that knows of no quantisation.

    Raises:
        ModelError: as `load_base`.
    """
    from transformers.pytorch_utils import Conv1D

    model = load_base(folder, dtype).float()
    if quantization:
        for name, layer in quantized_layers(load_base(folder, dtype, quantization=quantization)):
            plain, weight = model.get_submodule(name), dequantized(layer, torch.float32)
            plain.weight.data.copy_(weight.t() if isinstance(plain, Conv1D) else weight)
    return model


def _in_one_piece(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The last states of many rows are a slice; torch's bfloat16 product would copy the whole head for each row."""
    return (inputs[0].contiguous(), *inputs[1:])


def tensor_names(folder: Path) -> list[str]:
    """Names of all weight tensors in a model folder, read from the headers alone."""
    from safetensors import safe_open

    from danlu.models.folder import weight_files

    names: list[str] = []
    for path in weight_files(folder):
        with safe_open(path, "pt") as stream:
            names += list(stream.keys())
    return sorted(names)


def generation_defaults(folder: Path) -> dict[str, Any]:
    """The model's `generation_config.json`, or nothing."""
    path = folder / "generation_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
