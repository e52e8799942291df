"""Exports runs in every format and prints a table of what was kept: a figure in each cell, or the refusal.

    python benchmarks/export_table.py --out FOLDER RUN [RUN ...] [--formats gguf:f32,onnx,int8]

A row of the table is a format, a column a run: share of next tokens with the same likeliest one, and greedy answers
that are the same, over the run's probes. Each export is removed once it was judged; all figures stay in
FOLDER/cells.jsonl, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

FORMATS = (
    "merged:float32,merged:bfloat16,gguf:f32,gguf:f16,gguf:bf16,gguf:q8_0,gguf:q4_k_m,"
    "gguf-lora:f32,gguf-lora:f16,onnx,onnx-int8,int8,awq,gptq"
)
CELLS = "cells.jsonl"


def measure(run: str, name: str, folder: Path) -> dict[str, Any]:
    """What one export came to: `parity` and `seconds`, or `refused`."""
    to, _, kind = name.partition(":")
    choice = "--dtype" if to == "merged" else "--quantize"
    words = ["--to", to, *([choice, kind] if kind else []), "--out", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "danlu", "export", run, *words], capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)
    result = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    if found := result.get("parity"):
        return {"parity": found, "seconds": result["seconds"], "written": result["written"]}
    faults = result.get("faults", [{"what": f"no answer: {done.stderr[-200:]}"}])
    return {"refused": "; ".join(fault["what"] for fault in faults), "status": done.returncode}


def shown(cell: dict[str, Any]) -> str:
    """A cell in words."""
    found = cell.get("parity")
    if not found:
        return f"refused: {cell['refused']}"
    said = "" if found["passed"] else f" (the gate says no: {'; '.join(found['faults'])})"
    return f"{found['argmax_agreement']:.4f}, {found['greedy_equal']} of {found['prompts']}{said}"


def cells_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What was measured before, by run and format."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {(cell["run"], cell["format"]): cell for cell in map(json.loads, lines)}


def main() -> None:
    """Prints the table in Markdown, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--formats", default=FORMATS)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    known = cells_of(asked.out / CELLS)
    print("| format |", " | ".join(Path(run).name for run in asked.runs), "|")
    print("|---" * (len(asked.runs) + 1) + "|")
    for name in asked.formats.split(","):
        cells = []
        for run in asked.runs:
            if (run, name) not in known:
                found = measure(run, name, asked.out / f"{Path(run).name}-{name.replace(':', '-')}")
                known[run, name] = {"run": run, "format": name, **found}
                with (asked.out / CELLS).open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(known[run, name]) + "\n")
            cells.append(shown(known[run, name]))
        print(f"| {name} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
