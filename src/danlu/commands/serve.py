"""`danlu serve`: adapters over an OpenAI-compatible API."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click

from danlu.commands.output import finish, json_option
from danlu.errors import Fault, InputError, ResourceError

_LIBRARIES = ("aiohttp", "fastapi", "httpx", "prometheus_client", "uvicorn")
_ENGINES = ("transformers", "llama.cpp", "vllm", "upstream")
_WHERE_NOT_SAID = "Longest answer, where a request does not say."


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--registry", "url", metavar="URL", help="Where there are no RUNS; default DANLU_REGISTRY, or at home.")
@click.option("--base", metavar="MODEL", help="Serve this base, alone or with adapters; default that of the adapters.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--routes", metavar="FILE", help="Rules that choose an adapter by header, prefix, keyword or example.")
@click.option("--engine", default="transformers", show_default=True, type=click.Choice(_ENGINES), help="That answers.")
@click.option("--quantize", metavar="KIND", help="Weights of --engine llama.cpp: f32, f16, q8_0 (default), q4_k_m, ...")
@click.option("--upstream", metavar="URL", help="Server of --engine upstream; its key is in DANLU_UPSTREAM_KEY.")
@click.option(
    "--upstream-model", "names", multiple=True, metavar="NAME=THEIRS", help="What the upstream calls a model."
)
@click.option("--dtype", default="auto", show_default=True, type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--max-context", type=click.IntRange(16), help="Tokens of prompt and answer; default what the model can.")
@click.option("--max-new-tokens", default=1024, show_default=True, type=click.IntRange(1), help=_WHERE_NOT_SAID)
@click.option("--max-batch", default=32, show_default=True, type=click.IntRange(1), help="Answers made at once.")
@click.option("--max-waiting", default=128, show_default=True, type=click.IntRange(0), help="More clients get 429.")
@click.option("--max-adapters", default=16, show_default=True, type=click.IntRange(1), help="That stay loaded.")
@click.option(
    "--kv-gib", default=1.0, show_default=True, type=click.FloatRange(0.01), help="Memory of running answers."
)
@click.option("--cache-mib", default=64, show_default=True, type=click.IntRange(0), help="Of answers kept; 0: none.")
@click.option("--redis", metavar="URL", envvar="DANLU_REDIS", help="Keeps answers for several gateways.")
@click.option("--keys", is_flag=False, flag_value="", metavar="[FILE]", help="Ask for a key; see `danlu keys`.")
@click.option("--open", is_flag=True, help="Ask for no key even where others reach this server.")
@click.option("--audit/--no-audit", default=None, help="Tell each request to the audit log; default with --keys.")
@click.option("--audit-text", is_flag=True, help="With what was asked and said.")
@click.option("--feedback", metavar="STORE", help="File, or postgresql://...; default DANLU_HOME/feedback.jsonl.")
@click.option("--name", metavar="NAME", help="Of this gateway, in the audit log and on the dashboard.")
@click.option("--drain-seconds", default=30.0, show_default=True, type=click.FloatRange(0), help="For running answers.")
@json_option
def serve(
    runs: tuple[str, ...],
    url: str | None,
    base: str | None,
    host: str,
    port: int,
    routes: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Serve RUNS, or a registry's adapters, on one base, by OpenAI's API; SIGTERM lets running answers end."""
    _require_libraries()
    from danlu.engines.batching import Limits
    from danlu.serving.backends.table import Choice
    from danlu.serving.serve import Keeping, run_serve
    from danlu.serving.surroundings import Access

    limits = Limits(
        max_context=chosen["max_context"],
        max_rows=chosen["max_batch"],
        max_waiting=chosen["max_waiting"],
        kv_bytes=int(chosen["kv_gib"] * 2**30),
    )
    names = dict(_named(text) for text in chosen["names"])
    choice = Choice(chosen["engine"], chosen["dtype"], chosen["quantize"], limits, chosen["upstream"], names)
    keeping = Keeping(
        max_adapters=chosen["max_adapters"],
        drain_seconds=chosen["drain_seconds"],
        max_new_tokens=chosen["max_new_tokens"],
        cache_bytes=chosen["cache_mib"] << 20,
        redis=chosen["redis"],
        access=Access(**{name: chosen[name] for name in Access.__dataclass_fields__}),
    )
    result = run_serve(runs, url, base, (host, port), routes, choice, keeping)
    finish(result, as_json, f"{result['answers']} answers in {result['seconds']:.0f} s")


def _named(text: str) -> tuple[str, str]:
    name, equals, theirs = text.partition("=")
    if not (name and equals and theirs):
        raise InputError(Fault(f"{text} names no model", "--upstream-model", "NAME=THEIRS, as in bank=acme/bank-v3"))
    return name, theirs


def _require_libraries() -> None:
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ResourceError(Fault(f"{', '.join(missing)} is not installed", hint="pip install 'danlu[serve]'"))
