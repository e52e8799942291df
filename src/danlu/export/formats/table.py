"""The formats, by the names that `danlu export --to` takes."""

from __future__ import annotations

from danlu.export.formats import compressed, gguf, gguf_lora, int8, onnx
from danlu.export.formats.interface import Format

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        gguf.FORMAT,
        gguf_lora.FORMAT,
        onnx.FORMAT,
        onnx.INT8,
        int8.FORMAT,
        compressed.AWQ,
        compressed.GPTQ,
    )
}
