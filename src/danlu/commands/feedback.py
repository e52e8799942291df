"""`danlu feedback`: what users said of answers, as rows to train on."""

from __future__ import annotations

import click

from danlu.commands.output import finish, json_option


@click.group(no_args_is_help=False)
def feedback() -> None:
    """What users said of answers."""


@feedback.command("export")
@click.option("--out", required=True, metavar="FOLDER", help="To write: sft.jsonl, preference.jsonl, ledger.json.")
@click.option(
    "--from", "store", metavar="STORE", help="As `danlu serve --feedback`; default DANLU_HOME/feedback.jsonl."
)
@click.option("--model", metavar="NAME", help="Only of this adapter, any version; or of NAME@VERSION.")
@click.option("--since", metavar="DATE", help="Only from then on, in UTC, as in 2026-11-30.")
@json_option
def feedback_export(out: str, store: str | None, model: str | None, since: str | None, as_json: bool) -> None:
    """Write rows that `data.train` takes: corrections and liked answers, and pairs of correction and answer."""
    from pathlib import Path

    from danlu.serving.feedback.export import run_feedback_export

    result = run_feedback_export(store, Path(out), model, since)
    rows = result["rows"]
    text = (
        f"{rows['read']} read: {rows['sft']} rows to train on, {rows['preference']} of them pairs too; "
        f"{rows['superseded']} said anew later, {rows['no_text']} without an answer to learn: {result['out']}"
    )
    finish(result, as_json, text)
