"""What all commands do at their end: JSON for programs, text for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--json`, as `as_json`, to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout's last line.")(
        function
    )


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Prints a result: JSON for programs, text for people."""
    click.echo(json_line(result) if as_json else text)


def json_line(value: dict[str, Any]) -> str:
    """One line of JSON that any output takes: half characters, as file names hold, are JSON's own escapes for them."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
