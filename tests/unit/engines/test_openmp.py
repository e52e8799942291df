"""Who leaves the computing to another thread keeps no threads of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from danlu.engines.openmp import no_team_left

SCRIPT = """
import os, sys, time, torch
from danlu.engines.openmp import end_team, no_team_left
count = lambda: len(os.listdir("/proc/self/task"))
work = lambda: torch.zeros(1 << 20).add_(1).sum().item()
before = count()
print(no_team_left()(work)() if "after" in sys.argv else work())
if "then" in sys.argv:
    end_team()
    print(work(), torch.get_num_threads())
end = time.monotonic() + 2  # a thread that has ended is shown a little longer
while count() > before and time.monotonic() < end:
    time.sleep(0.01)
print(count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted as Linux shows them")
@pytest.mark.parametrize(
    ("how", "said"),
    [("after", ["1048576.0", "0"]), ("", ["1048576.0", "1"]), ("then", ["1048576.0", "1048576.0", "2", "1"])],
    ids=["ended", "kept", "ended_and_made_anew"],
)
def test_the_threads_that_compute(how: str, said: list[str]) -> None:
    words, two = [sys.executable, "-c", SCRIPT, how], {**os.environ, "OMP_NUM_THREADS": "2"}
    assert subprocess.run(words, capture_output=True, text=True, check=True, env=two).stdout.split() == said


def test_an_error_goes_through() -> None:
    with pytest.raises(ZeroDivisionError), no_team_left():
        _ = 1 / 0
