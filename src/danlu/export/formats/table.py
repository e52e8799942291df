"""The formats, by the names that `danlu export --to` takes."""

from __future__ import annotations

from danlu.export.formats import gguf, gguf_lora, onnx
from danlu.export.formats.interface import Format

FORMATS: dict[str, Format] = {one.name: one for one in (gguf.FORMAT, gguf_lora.FORMAT, onnx.FORMAT, onnx.INT8)}
