"""`danlu keys`: who may ask a gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from danlu.commands.output import finish, json_option


@click.group(no_args_is_help=False)
def keys() -> None:
    """API keys of `danlu serve --keys`: what each may do, how much, and until when."""


def _file_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "File of keys; default DANLU_KEYS, else DANLU_HOME/keys.json."
    return click.option("--keys", "file", metavar="FILE", help=text)(function)


@keys.command("create")
@click.option("--name", required=True, help="Of who gets it.")
@click.option(
    "--role", "roles", multiple=True, metavar="ROLE", help="use, feedback, operate or admin; default use, feedback."
)
@click.option("--model", "models", multiple=True, metavar="NAME", help="That it may ask; default all.")
@click.option("--requests-per-minute", type=click.IntRange(1), metavar="N", help="Default any number.")
@click.option(
    "--tokens-per-day", type=click.IntRange(1), metavar="N", help="Of prompts and answers; default any number."
)
@click.option("--expires", metavar="DATE", help="In UTC, as in 2026-12-31 or 2026-12-31T12:00:00Z; default never.")
@_file_option
@json_option
def keys_create(file: str | None, as_json: bool, roles: tuple[str, ...], **about: Any) -> None:
    """Make a key, and print it this once: the file has only its hash."""
    from danlu.serving.access.keys import keys_path, make_key

    path = keys_path(file)
    secret, key = make_key(path, roles=roles or ("use", "feedback"), **about)
    click.echo(f"{path} has its hash; the key itself is nowhere else, keep it:", err=True)
    finish({"secret": secret, "key": key.shown(), "path": str(path)}, as_json, secret)


@keys.command("list")
@_file_option
@json_option
def keys_list(file: str | None, as_json: bool) -> None:
    """List all keys, without their secrets."""
    from danlu.serving.access.keys import keys_path, read_keys

    path = keys_path(file)
    found = read_keys(path)
    finish({"path": str(path), "keys": [key.shown() for key in found]}, as_json, "\n".join(map(_line, found)))


@keys.command("revoke")
@click.argument("id")
@_file_option
@json_option
def keys_revoke(id: str, file: str | None, as_json: bool) -> None:
    """End a key for good; gateways refuse it from their next request on."""
    from danlu.serving.access.keys import keys_path, revoke_key

    key = revoke_key(keys_path(file), id)
    finish({"key": key.shown()}, as_json, _line(key))


def _line(key: Any) -> str:
    from danlu.serving.access.keys import now_text

    state = f"revoked {key.revoked}" if key.revoked else "expired" if key.is_over(now_text()) else "good"
    limits = [f"{key.requests_per_minute} requests/min"] if key.requests_per_minute else []
    limits += [f"{key.tokens_per_day} tokens/day"] if key.tokens_per_day else []
    limits += [f"until {key.expires}"] if key.expires else []
    models = ",".join(key.models) or "all models"
    return "  ".join([key.id, key.name, ",".join(key.roles), models, *limits, state])
