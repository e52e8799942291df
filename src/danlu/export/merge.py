"""The adapter merged into its base: a plain model folder that needs no adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu.adapters.lora import load_adapter
from danlu.data.template import answer_start_ids, stop_ids
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import DTYPES, generation_defaults, load_base
from danlu.models.saving import save_model
from danlu.models.tokenizer import has_encoder, load_tokenizer
from danlu.runs import ADAPTER, MODEL
from danlu.training.trained import TrainedRun


def write_merged(run: TrainedRun, folder: Path, dtype: str) -> None:
    """Writes W + (alpha/rank)·B·A as safetensors, with tokenizer, chat template and stop tokens.

    A run without an adapter trained W itself. The sum is taken in float32 and rounded once, when it is written. A
    quantised W is what its bits stand for: put into so few bits again, the sum would be another model.

    Args:
        run: a complete run.
        folder: an empty folder.
        dtype: `float32` or `bfloat16`, of the files.
    """
    base = run.base_folder()
    tokenizer = load_tokenizer(base)
    if run.recipe.adapter is None:
        merged = load_base(run.folder / MODEL, torch.float32)
    else:
        merged = load_adapter(run.plain_base(), run.folder / ADAPTER).merge_and_unload(safe_merge=True)
    if has_encoder(tokenizer):  # for those who generate by these files alone
        merged.generation_config.decoder_start_token_id = decoder_start(merged)
        merged.generation_config.forced_bos_token_id = next(iter(answer_start_ids(tokenizer)), None)
    stops = stop_ids(tokenizer, generation_defaults(base))
    save_model(merged.to(DTYPES[dtype]), tokenizer, folder, stops)
