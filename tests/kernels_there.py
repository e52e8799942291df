"""`kernels/` can be deleted: then tests of the kernels themselves are skipped, and all others hold."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

THERE = find_spec("danlu.kernels") is not None
needs_kernels = pytest.mark.skipif(not THERE, reason="kernels/ was deleted")
PLAIN_AND_PACKED = [pytest.param(False, id="plain"), pytest.param(True, id="packed", marks=needs_kernels)]


def kernel(name: str) -> Any:
    """A module of `danlu.kernels`, for tests that need it; nothing where it was deleted."""
    return import_module(f"danlu.kernels.{name}") if THERE else None
