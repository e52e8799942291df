"""AWQ or GPTQ by llmcompressor: a script that the tool's own Python runs, without Danlu.

Called with a JSON file: `model` and `out` (folders), `method` (awq or gptq), `rows` (token ids of calibration texts).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

_GROUPS = (128, 64, 32)  # columns that share a scale, as vLLM's kernels take them


def compress(model_folder: str, out: str, method: str, rows: list[list[int]]) -> None:
    """Writes the model with linear layers in 4 bits, in compressed-tensors' format."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.accelerator.is_available():  # it pins memory for a device whether or not there is one
        torch.Tensor.pin_memory = lambda tensor, *_: tensor
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows])
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data,
        recipe=_recipe(model, method),
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
    )
    model.save_pretrained(out, save_compressed=True)


def _recipe(model: Any, method: str) -> list[Any]:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    columns = [module.in_features for module in model.modules() if isinstance(module, torch.nn.Linear)]
    group = next((size for size in _GROUPS if all(count % size == 0 for count in columns)), None)
    how: dict[str, Any] = {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=4, type="int", symmetric=method == "gptq", **how)
    chosen: dict[str, Any] = {
        "config_groups": {"linear": QuantizationScheme(targets=["Linear"], weights=weights)},
        "ignore": ["lm_head"],
    }
    if method == "gptq":
        return [GPTQModifier(**chosen)]
    return [AWQModifier(), QuantizationModifier(**chosen)]


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    compress(asked["model"], asked["out"], asked["method"], asked["rows"])
