"""The threads that OpenMP keeps for each thread that has computed: its team."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any

_HARD = 2  # omp_pause_hard of OpenMP 5.0's omp_pause_resource_t


def end_team() -> None:
    """Ends the calling thread's team; it gets another when it computes again.

    GNU's OpenMP lets a team wait at hand for the next product only while all teams together are no more threads than
    cores; else they sleep in between, and one answer's step takes twice as long. So who leaves the computing to another
    thread ends its own team first.
    """
    library: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "omp_pause_resource_all"):
        library.omp_pause_resource_all(_HARD)


@contextlib.contextmanager
def no_team_left() -> Iterator[None]:
    """What is computed in here leaves no team behind; decorates functions too."""
    try:
        yield
    finally:
        end_team()
