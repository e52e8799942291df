"""What a quantised base saves: full fine-tuning, LoRA and QLoRA of one model, each in a process of its own.

    python benchmarks/qlora_memory.py --rows /path/alpaca_en_demo.json --out benchmarks/results/NAME.json

The model has Llama 3.2 1B's shape and random weights. Each trains two epochs over the same rows, the second timed.
Memory is the process's largest resident size, on a GPU the most that it had allocated there: while training, and for
Danlu also over the probes that end each run. Full fine-tuning in float32 needs 16 bytes a parameter. Where that may
not fit, it is measured with a part of the layers, twice, and drawn out to all of them in a straight line: each layer
adds the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from machine import describe_run, write_result
from random_model import SHAPES, write_model
from train_throughput import peak_bytes, run, write_rows

from danlu.training.machine import usable_cores

_TRAINERS = Path(__file__).parent / "trainers"
_SHAPE = "llama-1b-whole"
_DANLU = {
    "lora": "null",
    "qlora nf4": "{type: nf4, double: true}",
    "qlora int8": "{type: int8}",
}
_PART_LAYERS = (2, 6)
_SPARE_BYTES = 1 << 30
_FULL = "full float32"
# Weights, gradients and two moments are 16; the rest is for the activations of a row.
_FULL_BYTES_PER_PARAMETER = 24


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON list of Alpaca rows")
    parser.add_argument("--num-rows", type=int, default=8)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16", help="what LoRA and QLoRA compute in")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--only", help=f"some of {', '.join([_FULL, *_DANLU])}, comma between them")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    asked.only = asked.only.split(",") if asked.only else [_FULL, *_DANLU]
    if unknown := set(asked.only) - {_FULL, *_DANLU}:
        parser.error(f"--only: no such method: {', '.join(sorted(unknown))}")
    return asked


def full(command: list[str], threads: int, parameters: int) -> dict[str, Any]:
    """Full fine-tuning with all layers, measured if the machine has the memory, else from parts of the layers."""
    if _free_bytes() > _FULL_BYTES_PER_PARAMETER * parameters:
        return run(command, threads)
    layers = SHAPES[_SHAPE]().num_hidden_layers
    parts = {}
    for count in _PART_LAYERS:
        parts[count] = run([*command, "--layers", str(count)], threads)
        print(f"full float32, {count} layers: {json.dumps(parts[count])}", flush=True)
    if any("failed" in part for part in parts.values()):
        return {"failed": "; ".join(part["failed"] for part in parts.values() if "failed" in part)}
    drawn_out = {
        key: straight_line({count: part[key] for count, part in parts.items()}, layers)
        for key in ("peak_rss_bytes", "peak_gpu_bytes", "second_epoch_seconds", "parameters")
        if parts[_PART_LAYERS[0]][key] is not None
    }
    if _free_bytes() > peak_bytes(drawn_out) + _SPARE_BYTES:
        return {**run(command, threads), "drawn_out": drawn_out, "parts": parts}
    steps, tokens = parts[_PART_LAYERS[0]]["steps"], parts[_PART_LAYERS[0]]["tokens"]
    return {**drawn_out, "steps": steps, "tokens": tokens, "drawn_out": True, "parts": parts}


def _free_bytes() -> int:
    """Of the GPU's memory if there is one, else of the machine's."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available


def straight_line(known: dict[int, float], at: int) -> float:
    """The value at another place of the line through two."""
    (first, low), (second, high) = known.items()
    return low + (high - low) / (second - first) * (at - first)


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """For people."""
    full = results.get(_FULL, {"failed": "not asked for"})
    whole = None if "failed" in full else peak_bytes(full)
    print(f"\n{'':<16}{'training GB':>12}{'less':>7}{'whole run GB':>14}{'s a step':>10}{'weights':>9}")
    for name, row in results.items():
        if "failed" in row:
            print(f"{name:<16}failed: {row['failed']}")
            continue
        peak = row.get("peak_trained_bytes", peak_bytes(row))
        share = f"{row['quantised_bytes'] / row['bfloat16_bytes']:.3f}" if row.get("bfloat16_bytes") else ""
        print(
            f"{name:<16}{peak / 1e9:>12.2f}{f'{1 - peak / whole:.0%}' if whole else '':>7}"
            f"{peak_bytes(row) / 1e9:>14.2f}{row['second_epoch_seconds'] / row['steps']:>10.1f}{share:>9}"
            + ("  from parts of the layers" if row.get("drawn_out") is True else "")
        )


def main() -> None:
    """Writes the model, runs all in turn, prints the table."""
    asked = parse()
    with tempfile.TemporaryDirectory() as folder:
        base, rows = Path(folder) / "base", Path(folder) / "rows.jsonl"
        parameters = write_model(_SHAPE, base)
        write_rows(asked.rows, asked.num_rows, rows)
        shared = ["--rows", str(rows), "--model", str(base), "--max-tokens", str(asked.max_tokens)]
        shared += ["--rows-per-step", str(asked.rows_per_step)]
        danlu = [sys.executable, str(_TRAINERS / "danlu_memory.py"), *shared, "--override"]
        plain = [sys.executable, str(_TRAINERS / "full_float32.py"), *shared]
        results = {}
        for name in asked.only:
            words = [*danlu, f"model.quantization={_DANLU.get(name)}", "--dtype", asked.dtype]
            results[name] = full(plain, asked.threads, parameters) if name == _FULL else run(words, asked.threads)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    print_table(results)
    if asked.out:
        about = {
            **describe_run(asked.threads),
            "model": {"shape": _SHAPE, "parameters": parameters, **SHAPES[_SHAPE]().to_diff_dict()},
            "rows": {"file": asked.rows.name, "count": asked.num_rows, "per_step": asked.rows_per_step},
            "dtype": asked.dtype,
        }
        write_result(asked.out, {**about, "results": results})


if __name__ == "__main__":
    main()
