"""What the registry's commands print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.registry.state import State, Version


def list_text(url: str, state: State) -> str:
    """A line for each adapter: its versions, the newest, its aliases."""
    rows = [("adapter", "versions", "newest", "aliases")]
    for name in state.names():
        versions = state.versions(name)
        aliases = ", ".join(f"{alias} → {number}" for alias, number in state.aliases(name).items()) or "-"
        rows.append((name, str(len(versions)), f"{versions[-1].number} of {versions[-1].added[:10]}", aliases))
    return _table(rows) if len(rows) > 1 else f"{url}: no adapters yet"


def adapter_text(state: State, name: str) -> str:
    """A line for each version of an adapter, the newest first."""
    named = state.adapter(name).named()
    rows = [("version", "hash", "added", "by", "kind", "rank", "size", "aliases")]
    for version in reversed(state.versions(name)):
        aliases = ", ".join(named.get(version.number, [])) or "-"
        about = (version.hash[:12], version.added[:16].replace("T", " "), version.user, version.kind)
        rows.append((str(version), *about, str(version.rank or "-"), size(version.size_bytes), aliases))
    return _table(rows)


def version_text(version: Version, about: dict[str, Any], aliases: Sequence[str]) -> str:
    """All that matters of one version."""
    rank = f", rank {version.rank}" if version.rank else ""
    lines = [
        f"{version}  {', '.join(aliases)}".rstrip(),
        f"  hash      {version.hash}",
        f"  adapter   {version.kind}{rank}, {size(version.size_bytes)} in {len(version.files)} files",
        f"  base      {version.base_name}  {version.base_sha256}",
        f"  added     {version.added} by {version.user}@{version.host}",
        f"  rows      {_figures((about.get('ledger') or {}).get('rows'))}",
        f"  training  {_figures(about.get('training'))}",
    ]
    metrics = about.get("metrics") or {}
    lines += [f"  {who:<8}  {_figures(values)}" for who, values in metrics.items()] or ["  metrics   no report"]
    lines += [f"  parity    {name}: {_parity(one)}" for name, one in (about.get("parity") or {}).items()]
    return "\n".join(lines if about.get("parity") else [*lines, "  parity    no export"])


def freed_lines(result: dict[str, Any]) -> list[str]:
    """What was removed and what that frees."""
    gone = ", ".join(result["removed"])
    lines = [f"removed {gone}, {size(result['freed_bytes'])} freed"] if gone else []
    return lines + [f"{alias} names nothing now" for alias in result.get("aliases", [])]


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _parity(parity: dict[str, Any]) -> str:
    said = "passed" if parity.get("passed") else "FAILED"
    return f"{said}, {parity.get('greedy_equal')} of {parity.get('prompts')} answers equal"


def _figures(values: dict[str, Any] | None) -> str:
    """Numbers by name, on one line."""
    found = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in (values or {}).items()
        if isinstance(value, int | float)
    ]
    return ", ".join(found) or "-"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
