"""For people: what an evaluation, or a comparison of runs, came to."""

from __future__ import annotations

from typing import Any

from danlu.evaluation.report import metric_table


def evaluation_text(result: dict[str, Any]) -> str:
    """A line for each metric, the verdicts, the gates, and where the report is."""
    lines = []
    for row in metric_table(result["metrics"], result["loss_rows"], result["comparison"]):
        tail = f" ({row['change']}, {row['interval']}: {row['verdict']})" if row["interval"] else f" ({row['change']})"
        lines.append(f"{row['title']}: {row['base']} → {row['tuned']}{tail}")
    lines += [result["verdict"], *(one["verdict"] for one in result["against"])]
    if result["gate"]:
        lines.append(f"{len(result['gate']['rules'])} gate rules passed")
    return "\n".join([*lines, f"  report  {result['report_folder']}/index.html"])


def compare_text(result: dict[str, Any]) -> str:
    """A table of metrics by runs, and what each run is against the first."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    stream = StringIO()
    names = [run["name"] for run in result["runs"]]
    table = Table(show_edge=False)
    table.add_column("metric")
    for name in names:
        table.add_column(name, justify="right")
    for metric in result["metrics"]:
        cells = []
        for run in result["runs"]:
            value = run["metrics"].get(metric)
            verdict = run["comparison"].get(metric, {}).get("verdict", "")
            cells.append("" if value is None else f"{value:.4g}" + (f"\n{verdict}" if verdict else ""))
        table.add_row(metric, *cells)
    Console(file=stream, width=110, highlight=False, markup=False).print(table)
    verdicts = [f"{run['name']}: {run['verdict']}" for run in result["runs"] if run["verdict"]]
    return "\n".join([stream.getvalue().rstrip(), *verdicts, f"  comparison  {result['comparison_folder']}/index.html"])
