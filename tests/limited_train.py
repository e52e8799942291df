"""`danlu` whose steps may take so many bytes more than it has when they begin: `BYTES GROWTH_FILE COMMAND ...`.

Writes by how much it grew. Nothing is limited with 0.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.cli import main
from danlu.training.session import Session

LIMIT, GROWTH = int(sys.argv[1]), Path(sys.argv[2])
plain_steps = Session.steps


def size() -> int:
    """Address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limited_steps(self: Session) -> Iterator[Any]:
    before = size()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if LIMIT:
        resource.setrlimit(resource.RLIMIT_AS, (before + LIMIT, hard))
    for step in plain_steps(self):
        GROWTH.write_text(str(size() - before))  # what was freed is kept at hand
        yield step
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


Session.steps = limited_steps  # type: ignore[method-assign]
main(sys.argv[3:])
