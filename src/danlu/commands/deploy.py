"""`danlu deploy`: several gateways behind nginx."""

from __future__ import annotations

import os
from typing import Any

import click

from danlu.commands.output import finish, json_option
from danlu.errors import Fault, InputError


@click.command(epilog="SERVE_OPTIONS, after --, go to each `danlu serve`, such as -- --max-batch 16.")
@click.argument("serve_options", nargs=-1)
@click.option("--target", default="nginx", show_default=True, help="nginx (on this machine), systemd, compose or k8s.")
@click.option("--out", metavar="FOLDER", help="To write; new or empty.")
@click.option("--start", "started", metavar="FOLDER", help="Write nothing: run a deployment for nginx until Ctrl-C.")
@click.option("--gateways", default=2, show_default=True, type=click.IntRange(1, 64), help="How many.")
@click.option("--port", default=8080, show_default=True, help="Of nginx; gateways at the next ones, Redis at +100.")
@click.option("--registry", metavar="URL", help="Of the adapters; default DANLU_REGISTRY, or at home.")
@click.option("--domain", default="_", metavar="NAME", help="Of the server; default any.")
@click.option("--tls", nargs=2, metavar="CERTIFICATE KEY", help="Two files in PEM.")
@click.option("--self-signed", is_flag=True, help="Make a certificate that browsers warn of.")
@click.option("--requests-per-second", default=20, show_default=True, type=click.IntRange(1), help="Of one address.")
@json_option
def deploy(serve_options: tuple[str, ...], out: str | None, started: str | None, as_json: bool, **chosen: Any) -> None:
    """Write files that run gateways, Redis and nginx, and a first key; or start them on this machine."""
    from pathlib import Path

    from danlu.runs import danlu_home
    from danlu.serving.deployment.plan import Plan
    from danlu.serving.deployment.run import run_deploy, start

    if (out is None) == (started is None):
        raise InputError(Fault("one of --out and --start is needed", "command line", hint="danlu deploy --out FOLDER"))
    if started is not None:
        start(Path(started).resolve())
    self_signed = chosen.pop("self_signed")
    chosen["registry"] = chosen["registry"] or os.environ.get("DANLU_REGISTRY") or str(danlu_home() / "registry")
    chosen["tls"] = tuple(Path(path).resolve() for path in chosen["tls"]) if chosen["tls"] else None
    result = run_deploy(Plan(folder=Path(str(out)), serve_options=serve_options, **chosen), self_signed)
    lines = [
        f"{result['folder']}: {', '.join(result['files'])}",
        f"  start   {result['start']}",
        f"  asks at {result['url']}/v1, /playground, /dashboard",
        f"  key     {result['key']}  (role admin; told this once)",
    ]
    finish(result, as_json, "\n".join(lines))
