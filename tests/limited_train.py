"""`danlu` whose steps may take so many bytes more than it has when they begin: `BYTES GROWTH_FILE COMMAND ...`.

Writes the most that it grew by in its steps. Nothing is limited with 0.

Blocks are given back to the system when they are freed. What Danlu keeps at hand otherwise lies in pieces, other ones
in each run, so that the same steps would need another amount each time.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from danlu.cli import main
from danlu.training import machine
from danlu.training.session import Session

LIMIT, GROWTH = int(sys.argv[1]), Path(sys.argv[2])
M_MMAP_THRESHOLD = -3
plain_steps = Session.steps


def most_resident() -> int:
    """Largest resident size since it was last forgotten, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def limited_steps(self: Session) -> Iterator[Any]:
    before = psutil.Process().memory_info()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if LIMIT:
        resource.setrlimit(resource.RLIMIT_AS, (before.vms + LIMIT, hard))
    for step in plain_steps(self):
        GROWTH.write_text(str(most_resident() - before.rss))
        yield step
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)
machine._set_allocator = lambda kept_bytes: None
Session.steps = limited_steps  # type: ignore[method-assign]
main(sys.argv[3:])
