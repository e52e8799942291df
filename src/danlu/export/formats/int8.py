"""int8 weights by torchao: each row of a linear layer in whole numbers with a scale; loads in Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from danlu.errors import Fault, ResourceError
from danlu.export.formats.interface import Format, Subject
from danlu.export.formats.onnx import copy_description
from danlu.models.loading import model_class
from danlu.models.quiet import quiet_transformers


def refusal(subject: Subject, chosen: str | None) -> Fault | None:
    """Nothing stands against it.

    Raises:
        ResourceError: torchao is not installed.
    """
    try:
        import torchao  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            Fault("int8 weights need torchao, which is not installed", "--to", hint="pip install 'danlu[int8]'")
        ) from error
    return None


def write(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
    """Writes safetensors, config, tokenizer and template; embeddings and norms stay in float32."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    description = {path.name for path in merged.iterdir()}
    with quiet_transformers():
        config = TorchAoConfig(Int8WeightOnlyConfig())
        model = model_class(merged).from_pretrained(merged, dtype=torch.float32, quantization_config=config)
        copy_description(merged, folder)
        model.save_pretrained(folder)
    # Transformers writes its own view of what generation does; the export's is the run's.
    if "generation_config.json" in description:
        (folder / "generation_config.json").write_bytes((merged / "generation_config.json").read_bytes())
    return {"file_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors"))}


FORMAT = Format(
    name="int8",
    title="int8 weights (torchao)",
    refusal=refusal,
    write=write,
    size_factor=0.6,
    usage="transformers.{auto}.from_pretrained('{folder}')  # pip install torchao",
)
