"""`danlu` whose steps may take so many bytes more than it has when they begin: `BYTES GROWTH_FILE COMMAND ...`.

Writes by how much it grew. Nothing is limited with 0.
"""

from __future__ import annotations

import ctypes
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


def take_what_is_kept(hard: int) -> None:
    """Takes the blocks that were freed before and are kept at hand, for good, but gives the system their pages.

    How many there are is another number each time, and steps that are given them would need no memory of the system.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.malloc_trim(0)
    resource.setrlimit(resource.RLIMIT_AS, (size(), hard))
    for exponent in range(28, 15, -1):
        while libc.malloc(1 << exponent):
            pass
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def limited_steps(self: Session) -> Iterator[Any]:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    take_what_is_kept(hard)
    before = size()
    if LIMIT:
        resource.setrlimit(resource.RLIMIT_AS, (before + LIMIT, hard))
    for step in plain_steps(self):
        GROWTH.write_text(str(size() - before))  # what was freed is kept at hand
        yield step
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


Session.steps = limited_steps  # type: ignore[method-assign]
main(sys.argv[3:])
