"""`danlu plan` against what runs take: memory and time, from shapes alone and after a probe of two steps.

    python benchmarks/forecast.py --rows /path/alpaca_en_demo.json --out benchmarks/results/NAME.json

Each recipe is run in a process of its own, with one thread: the two steps of `danlu plan --probe`, then its own. Memory
is the largest resident size; time is the processor's, of the steps. Some recipes were used to set the
forecast's constants (`danlu.planning.forecast`, `danlu.planning.speed`); the others were not, and only they count.
The largest resident size may lie where the base is loaded; the forecast says the larger of loading and training too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from machine import describe_run, write_result
from random_model import write_model

from danlu.planning.probe import probe

REAL = "smollm2-135m-instruct"
QLORA = {"model.quantization": {"type": "nf4", "double": True}}
FULL = {"adapter": None, "training.learning_rate": 2e-5}


@dataclass(frozen=True)
class Case:
    """A recipe: base, longest row, rows of a step, tokens of a micro-batch, and what else is set."""

    base: str
    length: int
    rows: int
    tokens: int
    more: dict[str, Any] = field(default_factory=dict)
    calibrates: bool = False


CASES = {
    "a lora": Case(REAL, 256, 4, 512, calibrates=True),
    "b full": Case(REAL, 128, 4, 256, FULL, calibrates=True),
    "c qlora": Case(REAL, 256, 4, 256, QLORA, calibrates=True),
    "d lora, checkpointed": Case(
        "gemma-270m", 256, 4, 512, {"training.activation_checkpointing": 1.0}, calibrates=True
    ),
    "e lora, long": Case("qwen2-170m", 512, 4, 1024, calibrates=True),
    "1 lora, long": Case(REAL, 512, 8, 1024),
    "2 lora, half checkpointed": Case(REAL, 256, 8, 512, {"training.activation_checkpointing": 0.5}),
    "3 full": Case(REAL, 256, 4, 512, FULL),
    "4 qlora nf4": Case("llama-1b", 128, 2, 128, QLORA),
    "5 qlora int8": Case("gemma-270m", 256, 4, 256, {"model.quantization": {"type": "int8"}}),
    "6 lora, encoder-decoder": Case("t5-77m", 256, 8, 1024, {"adapter.target_modules": ["q", "v"], "adapter.rank": 8}),
    "7 lora, transposed": Case("gpt2-124m", 256, 4, 512),
    "8 dora": Case("qwen2-170m", 256, 4, 512, {"adapter.use_dora": True}),
    "9 lora, upper third": Case(REAL, 256, 4, 512, {"adapter.layers_to_transform": list(range(20, 30))}),
    "10 full, half frozen": Case("qwen2-170m", 256, 4, 512, FULL | {"training.freeze": {"first_layers": 7}}),
    "11 lora": Case("gemma-270m", 512, 4, 512),
    "12 qlora, checkpointed": Case("qwen2-170m", 512, 4, 1024, QLORA | {"training.activation_checkpointing": 1.0}),
}


def write_recipe(case: Case, rows: Path, bases: Path, path: Path) -> None:
    """Writes a case as a recipe of three steps, and its base where that is a random one."""
    base = bases / case.base
    if case.base != REAL and not base.exists():
        write_model(case.base, base)
    recipe: dict[str, Any] = {
        "model": {"name": case.base if case.base == REAL else str(base), "dtype": "float32"},
        "data": {
            "train": [str(rows)],
            "max_sequence_tokens": case.length,
            "too_long": "cut_answer",
            "max_dropped_share": 1.0,
            "num_workers": 1,
        },
        "adapter": {"type": "lora"},
        "training": {"max_steps": 3, "global_batch_size": case.rows, "micro_batch_tokens": case.tokens},
    }
    for key, value in case.more.items():
        *parents, last = key.split(".")
        place = recipe
        for name in parents:
            place = place[name]
        place[last] = value
    path.write_text(json.dumps(recipe), encoding="utf-8")


def forecast(path: Path, probed: dict[str, Any] | None) -> dict[str, Any]:
    """What `danlu plan` says of peak memory and of the steps' seconds."""
    from danlu.planning.run import plan
    from danlu.recipe import load_recipe

    found = plan(load_recipe(path), probed=probed)
    return {
        "memory_bytes": found["memory_bytes"],
        "seconds": found["time"]["steps"],
        "parts": found["memory"]["parts"],
        "facts": found["facts"],
    }


def apart(found: float, measured: float) -> float:
    """By which share a forecast is off."""
    return found / measured - 1


def judge(name: str, measured: dict[str, Any], alone: dict[str, Any], probed: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    memory, seconds = measured["peak_bytes"], sum(measured["processor_seconds"])
    return {
        "name": name,
        "calibrates": CASES[name].calibrates,
        "memory_bytes": memory,
        "seconds": seconds,
        "memory_off": apart(alone["memory_bytes"], memory),
        "seconds_off": apart(alone["seconds"], seconds),
        "memory_off_probed": apart(probed["memory_bytes"], memory),
        "seconds_off_probed": apart(probed["seconds"], seconds),
        "parts": alone["parts"],
        "facts": alone["facts"],
    }


def table(lines: list[dict[str, Any]]) -> str:
    """For people."""
    head = f"{'':<28}{'GB':>7}{'shapes':>9}{'probe':>8}{'seconds':>10}{'shapes':>9}{'probe':>8}"
    rows = [
        f"{line['name']:<28}{line['memory_bytes'] / 1e9:>7.2f}{line['memory_off']:>+9.1%}"
        f"{line['memory_off_probed']:>+8.1%}{line['seconds']:>10.1f}{line['seconds_off']:>+9.1%}"
        f"{line['seconds_off_probed']:>+8.1%}{'  calibrates' if line['calibrates'] else ''}"
        for line in lines
    ]
    return "\n".join([head, *rows])


def main() -> None:
    """Measures, forecasts, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON list of Alpaca rows")
    parser.add_argument("--bases", type=Path, help="folder for the random models; kept")
    parser.add_argument("--measured", type=Path, help="file of measurements; those in it are not made again")
    parser.add_argument("--measure-only", action="store_true", help="no forecast yet")
    parser.add_argument("--only", help="names of cases, by their first word, comma between them")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bases = asked.bases or folder
        known: dict[str, Any] = {}
        if asked.measured and asked.measured.is_file():
            known = json.loads(asked.measured.read_text())
        lines = []
        for name, case in CASES.items():
            if asked.only and name.split()[0] not in asked.only.split(","):
                continue
            path = folder / f"{name.split()[0]}.yaml"
            write_recipe(case, asked.rows.resolve(), bases, path)
            if name not in known:
                known[name] = probe(path, [], "all")
                if asked.measured:
                    asked.measured.write_text(json.dumps(known))
            if asked.measure_only:
                continue
            lines.append(judge(name, known[name]["whole"], forecast(path, None), forecast(path, known[name])))
            print(table(lines[-1:]).splitlines()[1], flush=True)
        if not lines:
            return
    print("\n" + table(lines))
    if asked.out:
        write_result(asked.out, {**describe_run(1), "lines": lines, "measured": known})


if __name__ == "__main__":
    main()
