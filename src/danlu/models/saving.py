"""Writing a whole model as a folder that Transformers, and `find_model`, take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.models.quiet import quiet_deepspeed, quiet_transformers


def save_model(model: Any, tokenizer: Any, folder: Path, stop_ids: Sequence[int]) -> None:
    """Writes weights as safetensors, with tokenizer, chat template and stop tokens.

    Args:
        model: a Transformers model.
        tokenizer: the model's.
        folder: an empty folder, or one to be made.
        stop_ids: tokens that end an answer.
    """
    quiet_deepspeed()
    with quiet_transformers():
        model.generation_config.eos_token_id = list(stop_ids)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
