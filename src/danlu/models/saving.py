"""Writing a whole model as a folder that Transformers, and `find_model`, take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.models.quiet import quiet_deepspeed, quiet_transformers


def save_model(
    model: Any, tokenizer: Any, folder: Path, stop_ids: Sequence[int], max_shard_bytes: int | None = None
) -> None:
    """Writes weights as safetensors, with tokenizer, chat template and stop tokens.

    Args:
        model: a Transformers model.
        tokenizer: the model's.
        folder: an empty folder, or one to be made.
        stop_ids: tokens that end an answer.
        max_shard_bytes: largest file of weights; None: Transformers' choice.
    """
    quiet_deepspeed()
    with quiet_transformers():
        model.generation_config.eos_token_id = list(stop_ids)
        model.save_pretrained(folder, **({} if max_shard_bytes is None else {"max_shard_size": max_shard_bytes}))
        tokenizer.save_pretrained(folder)


def save_description(model: Any, tokenizer: Any, folder: Path, stop_ids: Sequence[int], dtype: str) -> None:
    """Writes all of `save_model` but the weights.

    Args:
        model: a Transformers model, which needs no weights.
        tokenizer: the model's.
        folder: that is there.
        stop_ids: tokens that end an answer.
        dtype: of the weights, for the config.
    """
    with quiet_transformers():
        model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.eos_token_id = list(stop_ids)
        model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
