"""The adapter merged into its base: a plain model folder that needs no adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu.adapters.lora import load_adapter
from danlu.data.template import answer_start_ids, stop_ids
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import DTYPES, generation_defaults, load_base
from danlu.models.quiet import quiet_transformers
from danlu.models.tokenizer import has_encoder, load_tokenizer
from danlu.training.trained import TrainedRun


def write_merged(run: TrainedRun, folder: Path, dtype: str) -> None:
    """Writes W + (alpha/rank)·B·A as safetensors, with tokenizer, chat template and stop tokens.

    The sum is taken in float32 and rounded once, when it is written.

    Args:
        run: a complete run.
        folder: an empty folder.
        dtype: `float32` or `bfloat16`, of the files.
    """
    base = run.base_folder()
    tokenizer = load_tokenizer(base)
    with quiet_transformers():
        model = load_adapter(load_base(base, torch.float32), run.folder / "adapter")
        merged = model.merge_and_unload(safe_merge=True).to(DTYPES[dtype])
        generation = merged.generation_config
        generation.eos_token_id = stop_ids(tokenizer, generation_defaults(base))
        if has_encoder(tokenizer):  # for those who generate by these files alone
            generation.decoder_start_token_id = decoder_start(merged)
            generation.forced_bos_token_id = next(iter(answer_start_ids(tokenizer)), None)
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
