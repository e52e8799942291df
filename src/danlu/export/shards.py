"""Writing safetensors files a tensor at a time, so that no shard is ever whole in memory.

The format (huggingface.co/docs/safetensors): eight bytes with the length of the header, the header in JSON with dtype,
shape and place of each tensor, then their bytes. The safetensors library writes whole files only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path

import torch

from danlu.runs import write_json

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        size: int = torch.Size(self.shape).numel() * self.dtype.itemsize
        return size


def into_shards(planned: Sequence[Planned], max_shard_bytes: int) -> list[list[Planned]]:
    """Files of at most that size, in order; a tensor that is larger has one of its own."""
    shards: list[list[Planned]] = [[]]
    size = 0
    for one in planned:
        if shards[-1] and size + one.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(one)
        size += one.num_bytes
    return shards


def write_shards(
    folder: Path, shards: Sequence[Sequence[Planned]], tensors: Iterable[tuple[str, torch.Tensor]]
) -> list[Path]:
    """Writes `model.safetensors`, or shards and their index.

    Args:
        folder: that is there.
        shards: from `into_shards`.
        tensors: by name, each once, those of a shard together.

    Returns:
        The files with weights.
    """
    names = [
        "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    given = iter(tensors)
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as stream:
            _write_one(stream, shard, given)
    if len(shards) > 1:
        total = sum(one.num_bytes for shard in shards for one in shard)
        places = {one.name: name for name, shard in zip(names, shards, strict=True) for one in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        write_json(folder / "model.safetensors.index.json", index)
    return [folder / name for name in names]


def _write_one(stream: BufferedWriter, shard: Sequence[Planned], given: Iterable[tuple[str, torch.Tensor]]) -> None:
    planned = {one.name: one for one in shard}
    begins, header, end = {}, {}, 0
    # Wide numbers first: each tensor then lies where a reader may map it as it is.
    for one in sorted(shard, key=lambda one: -one.dtype.itemsize):
        begins[one.name] = end
        span = [end, end := end + one.num_bytes]
        header[one.name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": span}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    missing = set(planned)
    while missing:
        name, tensor = next(iter(given))
        expected = planned[name]
        if tensor.dtype != expected.dtype or tuple(tensor.shape) != expected.shape or name not in missing:
            raise ValueError(f"{name}: {tensor.dtype} {tuple(tensor.shape)}, planned {expected}")
        stream.seek(8 + len(text) + begins[name])
        stream.write(memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()))
        missing.remove(name)
