"""Tokens, labels and packs: Danlu against LLaMA-Factory's preprocessing, same rows, same workers, one after the other.

    python benchmarks/labels.py --rows rows.jsonl --llamafactory PYTHON --out benchmarks/results/NAME.json

PYTHON is the interpreter of an environment that has llamafactory==0.9.5 (install torch first). Rows are Alpaca rows as
benchmarks/rows.py makes them. Both sides start with the tokenizer loaded; reading the file and starting workers count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from danlu.data.packing import split_into_packs
from danlu.data.run import prepare
from danlu.engines.local import local_answers
from danlu.models.embedded import embedded_model_folder
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import load_recipe

_PACKED_TOGETHER = 1000


def ours(rows: Path, workers: int, max_tokens: int) -> dict[str, Any]:
    """Prepares the rows anew, then packs them all."""
    base = embedded_model_folder("smollm2-135m-instruct")
    load_tokenizer(base)
    recipe = {
        "model": {"name": "smollm2-135m-instruct"},
        "data": {
            "train": [str(rows.resolve())],
            "num_workers": workers,
            "max_sequence_tokens": max_tokens,
            "too_long": "cut_answer",
        },
        "adapter": {"type": "lora"},
        "training": {},
    }
    models = Path(os.environ.get("DANLU_HOME", "~/.cache/danlu")).expanduser() / "models"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        (Path(folder) / "models").symlink_to(models)
        os.environ["DANLU_HOME"] = folder
        begun = time.perf_counter()
        prepared = prepare(load_recipe(path), base, local_answers)
        labelled = time.perf_counter()
        store = prepared.store("train")
        num_packs = 0
        for start in range(0, len(store), _PACKED_TOGETHER):
            documents = [store[index] for index in range(start, min(start + _PACKED_TOGETHER, len(store)))]
            num_packs += len(split_into_packs(documents, max_tokens, share_prefix=False))
        ended = time.perf_counter()
        os.environ["DANLU_HOME"] = str(models.parent)
        return {
            "seconds": ended - begun,
            "seconds_to_pack": ended - labelled,
            "packs": num_packs,
            "tokens": store.num_tokens,
            "kept": prepared.about["rows"]["kept"],
        }


def theirs(python: str, rows: Path, workers: int, max_tokens: int) -> dict[str, Any]:
    """Runs LLaMA-Factory's preprocessing in its own environment, nothing cached."""
    script = Path(__file__).with_name("llamafactory_labels.py")
    model = embedded_model_folder("smollm2-135m-instruct")
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [python, str(script), str(rows), str(model), str(workers), str(max_tokens)],
            env={**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Runs both in turn, several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--llamafactory", required=True, help="its environment's python")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    num_rows = sum(1 for _ in arguments.rows.open("rb"))
    runs = []
    for _ in range(arguments.repeats):
        pair = {
            "danlu": ours(arguments.rows, arguments.workers, arguments.max_tokens),
            "llamafactory": theirs(arguments.llamafactory, arguments.rows, arguments.workers, arguments.max_tokens),
        }
        runs.append(pair)
        print(json.dumps(pair), flush=True)
    medians = {name: statistics.median(pair[name]["seconds"] for pair in runs) for name in runs[0]}
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "rows": num_rows,
        "workers": arguments.workers,
        "median_seconds": medians,
        "rows_per_second": {name: num_rows / seconds for name, seconds in medians.items()},
        "ratio": medians["llamafactory"] / medians["danlu"],
        "runs": runs,
    }
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
