"""What every tracker can do, and what it is told of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Line = Mapping[str, Any]
Status = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class TrackedRun:
    """One run, as a tracker is told of it.

    Attributes:
        name: for people.
        recipe: as it was resolved; plain values.
        folder: of the tracker's own, in the run folder.
        id: the tracker's own name for the run, if it has been there before.
        first_step: the run goes on after this one; what was noted later is told again.
        timeout_seconds: how long a server may be silent.
    """

    name: str
    recipe: dict[str, Any]
    folder: Path
    id: str | None = None
    first_step: int = 0
    timeout_seconds: float = 30.0


class Tracker(Protocol):
    """A run that is open in a tracker. Every method may raise anything, and hang.

    Attributes:
        id: what the run is called there.
        is_sure: whether what `log` took has arrived; else only `finish` says so.
    """

    id: str
    is_sure: bool

    def log(self, lines: Sequence[Line]) -> None:
        """Takes lines of metrics, all of them or none."""
        ...

    def finish(self, status: Status, result: dict[str, Any]) -> None:
        """Takes what the run came to, and sends all that was not sent yet."""
        ...


def measures(line: Line) -> dict[str, float]:
    """The numbers of a line of metrics, but for its step; tokens a second too."""
    numbers = {name: float(value) for name, value in line.items() if isinstance(value, int | float) and name != "step"}
    if line.get("seconds"):
        numbers["tokens_per_second"] = line["tokens"] / line["seconds"]
    return numbers


def flat(value: Any, above: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    if not isinstance(value, dict):
        return {above: value}
    return {key: one for name, part in value.items() for key, one in flat(part, f"{above}.{name}".strip(".")).items()}
