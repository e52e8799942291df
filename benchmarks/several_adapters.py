"""What several adapters in one run save: three over one base, against three runs, in time and memory.

    python benchmarks/several_adapters.py --rows /path/alpaca_en_demo.json --out benchmarks/results/NAME.json

Each of `--repeats` rounds runs `danlu train` on all three, then on each alone. Time is that of the whole commands, from
start to exit, and what they use of the processor, which a busy machine changes less; memory is the process's largest
resident size. The bits of what was trained are compared as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe_run, write_result
from train_throughput import run, write_rows

from danlu.runs import file_hash
from danlu.training.machine import usable_cores

_ADAPTERS: dict[str, dict[str, Any]] = {
    "small": {"adapter.rank": 4, "training.learning_rate": 1e-3},
    "large": {"adapter.rank": 32},
    "upper": {"adapter.rank": 16, "adapter.layers_to_transform": list(range(15, 30))},
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON list of Alpaca rows")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--num-rows", type=int, default=16)
    parser.add_argument("--max-steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def write_recipe(path: Path, asked: argparse.Namespace, rows: Path, **more: Any) -> None:
    """A recipe of small steps, with the adapters or with none."""
    recipe = {
        "model": {"name": asked.model},
        "data": {"train": [str(rows)], "max_sequence_tokens": 512},
        "adapter": {"type": "lora"},
        "training": {"learning_rate": 2e-4, "max_steps": asked.max_steps, "global_batch_size": 8},
        "evaluation": {"max_new_tokens": 16},
    }
    path.write_text(json.dumps({**recipe, **more}), encoding="utf-8")


def timed(words: list[str], threads: int) -> dict[str, Any]:
    """Seconds and processor seconds of a whole command, and its peak bytes."""
    started, used = time.perf_counter(), cpu_seconds()
    result = run([sys.executable, "-m", "danlu", "train", *words, "--json"], threads)
    if "failed" in result:
        raise SystemExit(result["failed"])
    seconds = round(time.perf_counter() - started, 2)
    used = round(cpu_seconds() - used, 2)
    return {"seconds": seconds, "cpu_seconds": used, "peak_rss_bytes": result["peak_memory_bytes"], "result": result}


def cpu_seconds() -> float:
    """What commands that ended have used of the processor."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def weights(folder: Path) -> str:
    """Hash of what was trained."""
    return file_hash(folder / "adapter" / "adapter_model.safetensors")


def one_round(folder: Path, several: Path, single: Path, threads: int) -> dict[str, Any]:
    """All in one run, then each in its own."""
    together = timed([str(several), f"run.folder={folder / 'together'}"], threads)
    apart = {
        name: timed(
            [
                str(single),
                f"run.folder={folder / name}",
                *(f"{key}={json.dumps(value)}" for key, value in own.items()),
            ],
            threads,
        )
        for name, own in _ADAPTERS.items()
    }
    same = {name: weights(folder / "together" / name) == weights(folder / name) for name in _ADAPTERS}
    each = [one["peak_memory_bytes"] for one in together.pop("result")["adapters"]]
    for one in apart.values():
        del one["result"]
    return {"together": {**together, "peak_after_each_bytes": each}, "apart": apart, "same_bits": same}


def medians_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of one run and of three, their largest peaks, and whether all bits were the same."""
    return {
        "together_seconds": statistics.median(one["together"]["seconds"] for one in rounds),
        "apart_seconds": statistics.median(sum(each["seconds"] for each in one["apart"].values()) for one in rounds),
        "together_cpu_seconds": statistics.median(one["together"]["cpu_seconds"] for one in rounds),
        "apart_cpu_seconds": statistics.median(
            sum(each["cpu_seconds"] for each in one["apart"].values()) for one in rounds
        ),
        "together_peak_bytes": statistics.median(one["together"]["peak_rss_bytes"] for one in rounds),
        "apart_peak_bytes": statistics.median(
            max(each["peak_rss_bytes"] for each in one["apart"].values()) for one in rounds
        ),
        "same_bits": all(all(one["same_bits"].values()) for one in rounds),
    }


def main() -> None:
    """Runs the rounds, prints the medians."""
    asked = parse()
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), Path(name) / "rows.jsonl"
        write_rows(asked.rows, asked.num_rows, rows)
        several, single = folder / "several.yaml", folder / "single.yaml"
        write_recipe(several, asked, rows, adapters=_ADAPTERS)
        write_recipe(single, asked, rows)
        rounds = []
        for number in range(asked.repeats):
            (folder / str(number)).mkdir()
            rounds.append(one_round(folder / str(number), several, single, asked.threads))
            print(f"{number + 1}/{asked.repeats} {json.dumps(rounds[-1])}", flush=True)
    medians = medians_of(rounds)
    print(
        f"\ntogether {medians['together_seconds']:.1f} s, of the processor {medians['together_cpu_seconds']:.1f} s, "
        f"{medians['together_peak_bytes'] / 1e9:.2f} GB; apart {medians['apart_seconds']:.1f} s, "
        f"of the processor {medians['apart_cpu_seconds']:.1f} s, {medians['apart_peak_bytes'] / 1e9:.2f} GB; "
        f"same bits: {medians['same_bits']}"
    )
    if asked.out:
        about = {
            **describe_run(asked.threads),
            "adapters": _ADAPTERS,
            "rows": {"file": asked.rows.name, "count": asked.num_rows, "max_steps": asked.max_steps},
        }
        write_result(asked.out, {**about, "medians": medians, "rounds": rounds})


if __name__ == "__main__":
    main()
