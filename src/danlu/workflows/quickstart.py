"""`danlu quickstart`: data, training, evaluation and proven merge in one go, then what to type next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from danlu.evaluation.report import metric_table
from danlu.evaluation.run import run_evaluation
from danlu.export.parity import parity_lines
from danlu.export.run import run_export
from danlu.recipe import load_recipe
from danlu.runs import next_free_folder
from danlu.shipped import shipped
from danlu.tracking.memory import peak_memory_bytes
from danlu.tracking.progress import say
from danlu.training.run import run_training

RECIPE = "recipes/smollm2_135m_lora.yaml"


def run_quickstart(overrides: Sequence[str] = (), quiet: bool = False) -> dict[str, Any]:
    """Runs the shipped recipe from rows to a proven merged model.

    Args:
        overrides: `section.key=value` words.
        quiet: no progress on stderr.

    Returns:
        The keys of train, evaluate and export together; `seconds` is the whole.
    """
    started = time.perf_counter()
    path = shipped(RECIPE)
    folder = load_recipe(path, overrides).recipe.run.folder
    free = folder or str(next_free_folder(load_recipe(path).run_folder.with_name("quickstart")))
    loaded = load_recipe(path, [*overrides, f"run.folder={free}"])
    stages: dict[str, Callable[[], dict[str, Any]]] = {
        "train": lambda: run_training(loaded, quiet),
        "evaluate": lambda: run_evaluation(loaded.run_folder, quiet),
        "export": lambda: run_export(loaded.run_folder),
    }
    result: dict[str, Any] = {}
    stage_seconds = {}
    for name, stage in stages.items():
        if not quiet:
            say(f"== {name} ==")
        result |= stage()
        stage_seconds[name] = result["seconds"]
    return result | {
        "seconds": round(time.perf_counter() - started, 3),
        "stage_seconds": stage_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def summary(result: dict[str, Any]) -> str:
    """The table, three answers side by side, the proof, and what to type next."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    stream = StringIO()
    console = Console(file=stream, width=110, highlight=False, markup=False)
    figures = Table(title=f"{result['rows']} held-out questions")
    for column in ("", "base", "tuned", "change"):
        figures.add_column(column, justify="left" if not column else "right")
    for row in metric_table(result["metrics"], result["loss_rows"]):
        figures.add_row(row["title"], row["base"], row["tuned"], row["change"])
    answers = Table(title="The worst, the middle one and the best of the tuned answers", show_lines=True)
    for column in ("question", "base", "tuned"):
        answers.add_column(column, ratio=1)
    for example in result["examples"]:
        answers.add_row(example["messages"][-1]["content"], example["base"]["text"], example["tuned"]["text"])
    console.print(figures, answers)
    for line in parity_lines(result["parity"]):
        console.print(f"merge, {line}")
    console.print(
        f"\n{result['seconds']:.0f} s, peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB\n"
        f"  report        {result['report_folder']}/index.html\n"
        f"  merged model  {result['export_folder']}\n\n"
        f"Next:\n  danlu chat {result['run_folder']}\n"
        f"  danlu train {RECIPE} data.train='[your_rows.jsonl]' run.folder=runs/mine\n"
    )
    return stream.getvalue()
