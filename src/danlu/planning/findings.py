"""What a check found: how bad, what, where, and what to change."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from danlu.errors import Fault, InputError

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        level: `error`: the run would fail, or learn something else than is wanted; `warning`: it would likely be worse
            than it could be; `note`: good to know.
        code: name of the fault, the same each time.
        what: in one sentence, without a full stop.
        where: recipe key, or file and row.
        hint: what to change.
        allowed: what would have been right; empty if nothing general can be said.
    """

    level: Level
    code: str
    what: str
    where: str = ""
    hint: str = ""
    allowed: str = ""

    def __str__(self) -> str:
        lines = [f"{self.level}: {self.what} [{self.code}]"]
        more = (("where", self.where), ("allowed", self.allowed), ("hint", self.hint))
        lines += [f"  {label}: {text}" for label, text in more if text]
        return "\n".join(lines)

    def to_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


class PreflightError(InputError):
    """Checks before training found what must be put right first.

    Attributes:
        findings: all of them, warnings and notes too.
    """

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        errors = [one for one in findings if one.level == "error"]
        super().__init__(*(Fault(one.what, one.where, one.allowed, one.hint) for one in errors))

    def to_json(self) -> dict[str, Any]:
        """The error with everything that was found."""
        return {**super().to_json(), "findings": [one.to_json() for one in self.findings]}
