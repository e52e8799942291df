"""The adapter merged into its base: a plain model folder that needs no adapter.

Tensors are read, merged and written one layer at a time, so memory holds a layer and the adapter, never the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from danlu.adapters.lora import base_of, load_adapter
from danlu.data.template import answer_start_ids, stop_ids
from danlu.export.shards import DTYPES as STORED_DTYPES
from danlu.export.shards import Planned, into_shards, write_shards
from danlu.export.stored import Stored
from danlu.export.tensors import Source, TunedTensors
from danlu.models.decoder_start import decoder_start
from danlu.models.loading import DTYPES, generation_defaults, load_plain
from danlu.models.quiet import quiet_transformers
from danlu.models.saving import save_description, save_model
from danlu.models.tokenizer import has_encoder, load_tokenizer
from danlu.recipe.model_schema import Quantization
from danlu.runs import ADAPTER, MODEL
from danlu.training.trained import TrainedRun


def write_merged(run: TrainedRun, folder: Path, dtype: str, max_shard_bytes: int) -> dict[str, Any]:
    """Writes W + (alpha/rank)·B·A as safetensors, with tokenizer, chat template and stop tokens.

    A run without an adapter trained W itself. The sum is taken in float32 and rounded once, when it is written. A
    quantised W is what its bits stand for: put into so few bits again, the sum would be another model.

    Args:
        run: a complete run.
        folder: an empty folder.
        dtype: `float32` or `bfloat16`, of the files.
        max_shard_bytes: largest file of weights, unless a tensor alone is larger.

    Returns:
        `weight_bytes`, `files`, `tensors`, `layer_by_layer`, and for people what a quantised base costs, in `notes`.

    Raises:
        FolderError: the adapter can't be merged.
        ModelError: tensors are missing from the base.
    """
    base = run.base_folder()
    return write_tuned(tuned_source(run, base), base, folder, dtype, max_shard_bytes)


def write_tuned(source: Source, base: Path, folder: Path, dtype: str, max_shard_bytes: int) -> dict[str, Any]:
    """As `write_merged`, from what the tuned model is made of.

    Args:
        source: of the weights.
        base: folder that has the tokenizer, and the end tokens that training ended answers with.
        folder: an empty folder.
        dtype: of the files.
        max_shard_bytes: largest file of weights.
    """
    tokenizer = load_tokenizer(base)
    stops = stop_ids(tokenizer, generation_defaults(base))
    tuned = TunedTensors(source)
    if tuned.in_parts:
        return _in_one_piece(source, tokenizer, folder, stops, dtype, max_shard_bytes)
    planned = [Planned(one.name, one.shape, written_dtype(one, dtype)) for one in tuned.stored]
    files = write_shards(folder, into_shards(planned, max_shard_bytes), _written(tuned, dtype))
    model = base_of(tuned.model)
    with quiet_transformers():
        from transformers import GenerationConfig

        if (source.base / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(source.base)
    save_description(_for_generation(model, tokenizer), tokenizer, folder, stops, dtype)
    return _about(files, source.quantization, dtype) | {"tensors": len(planned), "layer_by_layer": True}


def tuned_source(run: TrainedRun, base: Path | None = None) -> Source:
    """What a run's tuned model is made of; `base` where its folder is known already."""
    if run.recipe.adapter is None:
        return Source(run.folder / MODEL, torch.float32)
    return Source(base or run.base_folder(), run.dtype, run.recipe.model.quantization, run.folder / ADAPTER)


def written_dtype(one: Stored, dtype: str) -> torch.dtype:
    """In which dtype a tensor is written: numbers that are no fractions stay as they are."""
    return DTYPES[dtype] if one.is_floating else STORED_DTYPES[one.dtype]


def _written(tuned: TunedTensors, dtype: str) -> Iterator[tuple[str, torch.Tensor]]:
    for made in tuned:
        yield made.stored.name, made.tuned.to(written_dtype(made.stored, dtype))


def _for_generation(model: Any, tokenizer: Any) -> Any:
    """The model, with what its encoder's and decoder's beginnings are, for those who generate by these files alone."""
    if has_encoder(tokenizer):
        model.generation_config.decoder_start_token_id = decoder_start(model)
        model.generation_config.forced_bos_token_id = next(iter(answer_start_ids(tokenizer)), None)
    return model


def _in_one_piece(
    source: Source, tokenizer: Any, folder: Path, stops: list[int], dtype: str, max_shard_bytes: int
) -> dict[str, Any]:
    """For a base whose files have the trained layers in other pieces than the model: the whole in memory."""
    assert source.adapter is not None
    plain = load_plain(source.base, source.dtype, source.quantization)
    merged = load_adapter(plain, source.adapter).merge_and_unload(safe_merge=True)
    save_model(_for_generation(merged, tokenizer).to(DTYPES[dtype]), tokenizer, folder, stops, max_shard_bytes)
    files = sorted(folder.glob("*.safetensors"))
    tensors = len(merged.state_dict())
    return _about(files, source.quantization, dtype) | {"tensors": tensors, "layer_by_layer": False}


def _about(files: list[Path], quantization: Quantization | None, dtype: str) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in files)
    notes = []
    if quantization:
        bits = {"int8": 8.0}.get(quantization.type, 4.0)
        notes.append(
            f"merged onto the weights that the {quantization.type} base stands for, since those were trained on: "
            f"{size / 1e9:.2f} GB in {dtype}, {32 // (2 if dtype == 'bfloat16' else 1) / bits:.0f} times the bits of "
            "its linear layers; put into them again it would be another model"
        )
    return {"weight_bytes": size, "files": len(files), "notes": notes}
