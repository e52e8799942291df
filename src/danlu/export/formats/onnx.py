"""ONNX: graphs with a cache for onnxruntime, in float32 or with the products of matrices in int8."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from danlu.errors import DanluError, Fault, ResourceError, WorkError
from danlu.export.formats.interface import Format, Subject
from danlu.models.loading import load_base

_WEIGHTS = {".safetensors"}


def refusal(subject: Subject, chosen: str | None) -> Fault | None:
    """Nothing stands against it before torch has tried.

    Raises:
        ResourceError: what writes or runs ONNX is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            Fault(f"ONNX needs a package that is not installed: {error.name}", "--to", hint="pip install 'danlu[onnx]'")
        ) from error
    return None


def write(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
    """Writes `model.onnx`, or `encoder_model.onnx` and `decoder_model.onnx`, with config, tokenizer and template.

    Raises:
        WorkError: torch can't write this architecture as a graph.
    """
    from danlu.export.formats.onnx_graphs import write_answering, write_causal, write_encoder

    model = load_base(merged, torch.float32).to("cpu")
    graphs: dict[str, Any] = {"model.onnx": write_causal}
    if subject.has_encoder:
        graphs = {"encoder_model.onnx": write_encoder, "decoder_model.onnx": write_answering}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        for name, graph in graphs.items():
            graph(model, folder / name)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DanluError):
            raise
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WorkError(
            Fault(
                f"torch can't write {subject.architecture} as an ONNX graph: {said[:200]}",
                str(subject.base),
                hint="take --to merged, or --to gguf",
            )
        ) from error
    copy_description(merged, folder)
    return {"files": list(graphs), "file_bytes": sum(path.stat().st_size for path in folder.glob("*.onnx*"))}


def write_int8(subject: Subject, merged: Path, folder: Path, chosen: str | None) -> dict[str, Any]:
    """Writes the float32 graphs, and puts the weights of their matrix products into int8; inputs follow as it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = folder / ".float32"
    whole.mkdir()
    written = write(subject, merged, whole, None)
    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    for name in written["files"]:
        quantize_dynamic(
            whole / name,
            folder / name,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=True,  # processors without VNNI add two products in 16 bits, which overflow otherwise
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    copy_description(merged, folder)
    shutil.rmtree(whole)
    note = "Each input is put into int8 as it comes, which costs far more than int8 weights alone: see the figures."
    size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    return written | {"file_bytes": size, "notes": [note]}


def copy_description(model: Path, folder: Path) -> None:
    """Copies all of a model folder but its weights: config, tokenizer, template, end tokens."""
    for path in model.iterdir():
        if path.is_file() and path.suffix not in _WEIGHTS and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)


FORMAT = Format(
    name="onnx",
    title="ONNX",
    refusal=refusal,
    write=write,
    usage="onnxruntime.InferenceSession('{folder}/{graph}')",
)
INT8 = Format(
    name="onnx-int8",
    title="ONNX, dynamic int8",
    refusal=refusal,
    write=write_int8,
    size_factor=1.5,
    usage=FORMAT.usage,
)
