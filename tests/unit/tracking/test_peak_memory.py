"""The memory that is told is this process's own."""

from __future__ import annotations

import subprocess
import sys

from danlu.tracking.memory import peak_memory_bytes

_MB = 1 << 20
_CHILD = """
from danlu.tracking.memory import peak_memory_bytes
before = peak_memory_bytes()
taken = bytearray(200 << 20)
print(before, peak_memory_bytes())
"""


def test_what_was_taken_is_told_and_the_size_of_the_process_that_started_this_one_is_not() -> None:
    own = bytearray(700 * _MB)
    own[::4096] = b"x" * len(own[::4096])
    assert peak_memory_bytes() > 700 * _MB
    child = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    before, after = map(int, child.stdout.split())
    assert before < 300 * _MB
    assert 190 * _MB < after - before < 260 * _MB
