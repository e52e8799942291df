"""The data engine at size: seconds, rows a second for each step, and peak memory as rows grow.

    python benchmarks/data_engine.py --rows a.json --rows b.json --counts 250000 1000000 --out results/NAME.json

Memory is the sum of the resident memory of all of Danlu's processes, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from rows import write_rows

RECIPE = """
model: {name: smollm2-135m-instruct}
data:
  train: [rows.jsonl]
  cleaning: [CLEANING]
  masking: MASKING
  max_sequence_tokens: 1024
  max_dropped_share: 0.5
adapter: {type: lora}
training: {}
"""
CLEANING = "encoding unicode control_characters html whitespace refusal"


def peak_of(process: psutil.Process, stop: threading.Event, found: dict[str, int]) -> None:
    """Notes the highest sum of resident memory over a process and its children."""
    while not stop.is_set():
        try:
            family = [process, *process.children(recursive=True)]
            sizes = [one.memory_info().rss for one in family]
        except psutil.NoSuchProcess:
            continue
        found["tree"] = max(found.get("tree", 0), sum(sizes))
        found["main"] = max(found.get("main", 0), sizes[0])
        stop.wait(0.1)


def measure(folder: Path, workers: int, near: bool) -> dict[str, Any]:
    """One cold run and one cached run of `danlu data`."""
    steps = [*CLEANING.split(), "exact_duplicates", *(["near_duplicates"] if near else [])]
    cleaning = ", ".join(f"{{type: {step}}}" for step in steps)
    recipe = RECIPE.replace("CLEANING", cleaning).replace("MASKING", "{names: false}")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    models = Path(os.environ.get("DANLU_HOME", "~/.cache/danlu")).expanduser() / "models"
    home = Path(tempfile.mkdtemp(dir=folder))
    (home / "models").symlink_to(models)
    command = [sys.executable, "-m", "danlu", "data", "recipe.yaml", f"data.num_workers={workers}", "--json"]
    environment = {**os.environ, "DANLU_HOME": str(home)}
    result: dict[str, Any] = {"workers": workers, "near_duplicates": near}
    for name in ("cold", "cached"):
        begun = time.perf_counter()
        running = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        peak: dict[str, int] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=peak_of, args=(psutil.Process(running.pid), stop, peak))
        watcher.start()
        output, _ = running.communicate()
        stop.set()
        watcher.join()
        result[f"{name}_seconds"] = round(time.perf_counter() - begun, 2)
        if name == "cold":
            summary = json.loads(output.splitlines()[-1])
            result |= {"rows": summary["rows"], "tokens": summary["tokens"], "peak_bytes": peak}
            manifest = json.loads((Path(summary["prepared_folder"]) / "manifest.json").read_text(encoding="utf-8"))
            result["steps"] = [
                {
                    **step,
                    "rows_per_second_and_core": round(step["rows_in"] / step["seconds"]) if step["seconds"] else None,
                }
                for step in manifest["steps"]
            ]
    return result


def main() -> None:
    """Measures each count, with and without near-duplicates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="append", required=True, help="a JSON list of Alpaca rows; may be repeated")
    parser.add_argument("--counts", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--without-near", action="store_true", help="measure without near-duplicates too")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = {"machine": platform.processor() or platform.machine(), "date": time.strftime("%Y-%m-%d"), "runs": []}
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_rows(arguments.rows, count, folder / "rows.jsonl")
            for near in (False, True) if arguments.without_near else (True,):
                run = {"count": count, **measure(folder, arguments.workers, near)}
                results["runs"].append(run)
                print(json.dumps(run), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
