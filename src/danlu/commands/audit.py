"""`danlu audit`: the audit log."""

from __future__ import annotations

import click

from danlu.commands.output import finish, json_option


@click.group(no_args_is_help=False)
def audit() -> None:
    """Who did what with which data: show the log, or prove that nothing in it was changed."""


@audit.command("show")
@click.option("--last", default=20, show_default=True, type=click.IntRange(1), help="So many entries.")
@click.option("--kind", metavar="TEXT", help="Only entries whose kind begins so, such as request or training.")
@json_option
def audit_show(last: int, kind: str | None, as_json: bool) -> None:
    """Print the newest entries of the audit log."""
    from danlu.audit import audit_path, entry_line, read_audit

    found = read_audit(audit_path())
    shown = [entry for entry in found.entries if str(entry.get("kind", "")).startswith(kind or "")][-last:]
    lines = [*map(entry_line, shown), *found.notes] or [f"{audit_path()}: no entries"]
    result = {"path": str(audit_path()), "entries": shown, "notes": found.notes}
    finish(result, as_json, "" if as_json else "\n".join(lines))


@audit.command("verify")
@click.option("--head", help="A hash that was printed before: an entry must have it.")
@json_option
def audit_verify(head: str | None, as_json: bool) -> None:
    """Find any entry of the audit log that was changed, removed or moved; exit status 1 if there is one."""
    from danlu.audit import verify

    result = verify(head)
    lines = [f"{result['path']}: {result['entries']} entries, none changed, removed or moved", *result["notes"]]
    finish(result, as_json, "\n".join([*lines, f"  head    {result['head']}"]))


@audit.command("rotate")
@json_option
def audit_rotate(as_json: bool) -> None:
    """Put the file that is written aside; the chain goes on in a new one. Done by itself at 64 MiB."""
    from danlu.audit import audit_path, rotate

    aside = rotate()
    text = f"{aside}" if aside else f"{audit_path()}: no entries"
    finish({"path": str(audit_path()), "aside": str(aside) if aside else None}, as_json, text)
