"""What is too long for each run of the tests: `make soak` sets DANLU_SOAK, and all of it is tried."""

from __future__ import annotations

import os
from collections.abc import Iterable

ALL = bool(os.environ.get("DANLU_SOAK"))


def some_of(cases: Iterable[str], *left_to_soak: str) -> list[str]:
    """The cases without those that are too long for each run, and have neighbours that would fail with them."""
    found = list(cases)
    unknown = set(left_to_soak) - set(found)
    assert not unknown, unknown
    return [case for case in found if ALL or case not in left_to_soak]
