"""`danlu registry`: adapters by name, version and alias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from danlu.commands.output import finish, json_option


@click.group(no_args_is_help=False)
def registry() -> None:
    """Adapters by name, version and alias, on a folder or object storage."""


def _registry_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "A folder, or s3://BUCKET/PREFIX; default DANLU_REGISTRY, else DANLU_HOME/registry."
    return click.option("--registry", "url", metavar="URL", help=text)(function)


@registry.command("add")
@click.argument("run")
@click.option("--name", required=True, help="Of the adapter; its next version is made.")
@click.option("--alias", help="That names the new version from now on, such as candidate.")
@click.option("--keep-last", type=click.IntRange(1), metavar="K", help="Remove older versions that no alias needs.")
@_registry_option
@json_option
def registry_add(run: str, name: str, alias: str | None, keep_last: int | None, url: str | None, as_json: bool) -> None:
    """Add a finished run's adapter, with its recipe, ledger, metrics, parity and probes."""
    from danlu.registry import Registry
    from danlu.registry.text import freed_lines

    result = Registry.open(url).add(run, name, alias, keep_last)
    for note in result["notes"]:
        click.echo(note, err=True)
    hash = result["version"]["hash"][:12]
    lines = [f"{result['reference']}  {hash}{f'  {alias}' if alias else ''}", *freed_lines(result)]
    finish(result, as_json, "\n".join(lines))


@registry.command("list")
@_registry_option
@json_option
def registry_list(url: str | None, as_json: bool) -> None:
    """List adapters with their aliases."""
    from danlu.registry import Registry
    from danlu.registry.text import list_text

    opened = Registry.open(url)
    state = opened.state()
    adapters = [
        {"name": name, "versions": [one.number for one in state.versions(name)], "aliases": state.aliases(name)}
        for name in state.names()
    ]
    finish({"registry": opened.url, "event": state.number, "adapters": adapters}, as_json, list_text(opened.url, state))


@registry.command("show")
@click.argument("reference", metavar="NAME[@VERSION|@ALIAS]")
@_registry_option
@json_option
def registry_show(reference: str, url: str | None, as_json: bool) -> None:
    """Show the versions of an adapter, or all that is known of one."""
    from danlu.registry import Registry
    from danlu.registry.text import adapter_text, version_text

    opened = Registry.open(url)
    state = opened.state()
    version = state.resolve(reference)
    name, named = version.name, state.adapter(version.name).named()
    if "@" not in reference:
        versions = [{**one.summary(), "aliases": named.get(one.number, [])} for one in state.versions(name)]
        result = {"name": name, "versions": versions, "aliases": state.aliases(name)}
        finish(result, as_json, adapter_text(state, name))
        return
    about, aliases = opened.about(version), named.get(version.number, [])
    finish({**version.summary(), "aliases": aliases, **about}, as_json, version_text(version, about, aliases))


@registry.command("promote")
@click.argument("reference", metavar="NAME@VERSION")
@click.argument("alias")
@_registry_option
@json_option
def registry_promote(reference: str, alias: str, url: str | None, as_json: bool) -> None:
    """Let an alias, such as production, name a version."""
    from danlu.registry import Registry

    result = Registry.open(url).promote(reference, alias)
    finish(result, as_json, _named(result))


@registry.command("rollback")
@click.argument("name")
@click.argument("alias")
@_registry_option
@json_option
def registry_rollback(name: str, alias: str, url: str | None, as_json: bool) -> None:
    """Let an alias name what it named before."""
    from danlu.registry import Registry

    result = Registry.open(url).rollback(name, alias)
    finish(result, as_json, _named(result))


def _named(result: dict[str, Any]) -> str:
    before = f"before: {result['before'] or 'nothing'}" if result["changed"] else "as before"
    return f"{result['alias']} names {result['reference']} ({before})"


@registry.command("remove")
@click.argument("reference", metavar="NAME@VERSION")
@click.option("--force", is_flag=True, help="Also if an alias names it; the alias then names nothing.")
@_registry_option
@json_option
def registry_remove(reference: str, force: bool, url: str | None, as_json: bool) -> None:
    """Remove a version and its files."""
    from danlu.registry import Registry
    from danlu.registry.text import freed_lines

    result = Registry.open(url).remove(reference, force)
    finish(result, as_json, "\n".join(freed_lines(result)))


@registry.command("prune")
@click.argument("name", required=False)
@click.option("--keep-last", type=click.IntRange(1), metavar="K", help="So many versions stay, and what aliases need.")
@_registry_option
@json_option
def registry_prune(name: str | None, keep_last: int | None, url: str | None, as_json: bool) -> None:
    """Remove old versions of an adapter, and files of writers that were cut off more than a day ago."""
    from danlu.registry import Registry
    from danlu.registry.text import freed_lines, size

    result = Registry.open(url).prune(name, keep_last)
    lines = freed_lines(result)
    lines += [f"{result['leftovers']} leftover files removed, {size(result['freed_bytes'])} freed in all"]
    finish(result, as_json, "\n".join(lines))
