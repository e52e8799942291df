"""Exports runs in every format and prints a table of what was kept: a figure in each cell, or the refusal.

    python benchmarks/export_table.py --out FOLDER RUN [RUN ...] [--formats gguf:f32,onnx,int8]

A row of the table is a format, a column a run: share of next tokens with the same likeliest one, and greedy answers
that are the same, over the run's probes. Each export is removed once it was judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

FORMATS = (
    "merged:float32,merged:bfloat16,gguf:f32,gguf:f16,gguf:bf16,gguf:q8_0,gguf:q4_k_m,"
    "gguf-lora:f32,gguf-lora:f16,onnx,onnx-int8,int8,awq,gptq"
)


def cell(run: str, name: str, folder: Path) -> str:
    """What one export came to."""
    to, _, kind = name.partition(":")
    choice = "--dtype" if to == "merged" else "--quantize"
    words = ["--to", to, *([choice, kind] if kind else []), "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "danlu", "export", run, *words], capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)
    result = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    found = result.get("parity")
    if not found:
        return "refused: " + "; ".join(fault["what"] for fault in result.get("faults", [{"what": done.stderr[-200:]}]))
    return f"{found['argmax_agreement']:.4f}, {found['greedy_equal']} of {found['prompts']}"


def main() -> None:
    """Prints the table in Markdown, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--formats", default=FORMATS)
    asked = parser.parse_args()
    print("| format |", " | ".join(Path(run).name for run in asked.runs), "|")
    print("|---" * (len(asked.runs) + 1) + "|")
    for name in asked.formats.split(","):
        cells = [cell(run, name, asked.out / f"{Path(run).name}-{name.replace(':', '-')}") for run in asked.runs]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
