"""GGUF files as bases: de-quantised once to bf16 safetensors, then loaded like any other model."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

from danlu.errors import Fault, ModelError
from danlu.models.folder import check_model_folder
from danlu.models.quiet import quiet_transformers
from danlu.runs import MANIFEST, danlu_home, file_hash, require_disk, write_manifest
from danlu.tracking.progress import say


def gguf_model_folder(path: Path) -> Path:
    """The file's model as bf16 safetensors in the cache, by the file's hash; converted the first time.

    Raises:
        ModelError: the file is not a GGUF file that Transformers can read.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(
                Fault(
                    "this is not a GGUF file: its first bytes are not `GGUF`",
                    str(path),
                    hint="the download may be damaged: fetch it again",
                )
            )
    folder = danlu_home() / "models" / f"gguf-{file_hash(path)[:16]}"
    if not (folder / MANIFEST).is_file():
        convert_gguf(path, folder, {"name": path.stem, "source": str(path.resolve())})
    return check_model_folder(folder)


def convert_gguf(path: Path, folder: Path, about: dict[str, Any]) -> None:
    """De-quantises a GGUF file to a folder of bf16 safetensors, tokenizer and template.

    Raises:
        ModelError: Transformers can't read the file.
        ResourceError: the disk can't hold the result.
    """
    require_disk(folder.parent, 8 * path.stat().st_size, f"{path.name} as bf16")
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    say(f"de-quantising {path.name} to bf16, once; it is kept in {folder}")
    # The reader draws a bar of its own, which Transformers' switch does not reach.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
        except (ValueError, KeyError, OSError, NotImplementedError) as error:
            shutil.rmtree(aside)
            raise ModelError(
                Fault(
                    f"Transformers can't read this GGUF file: {_first_line(error)}",
                    str(path),
                    hint="use the model's safetensors folder instead",
                )
            ) from error
        # save_pretrained refuses, or writes a config that promises a quantised model, while this is set.
        if getattr(model.config, "quantization_config", None) is not None:
            del model.config.quantization_config
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
    write_manifest(aside, "model", about)
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
