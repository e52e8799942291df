"""Threads and memory are set for what the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danlu.training.machine import prepare_machine, resident_bytes, usable_cores


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", None), ("nonsense", None)],
)
def test_the_quota_of_a_container_bounds_the_cores(tmp_path: Path, text: str, expected: int | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert usable_cores(path) == (expected or len(os.sched_getaffinity(0)))


def test_without_a_quota_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "absent") == len(os.sched_getaffinity(0))


def test_threads_that_the_user_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        prepare_machine()
        assert torch.get_num_threads() == 7
        monkeypatch.delenv("OMP_NUM_THREADS")
        prepare_machine()
        assert torch.get_num_threads() == min(7, usable_cores())
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_freed_memory_stays_at_hand() -> None:
    script = """
import resource, sys, torch
from danlu.training.machine import prepare_machine
if sys.argv[1] == "prepared":
    prepare_machine()
torch.set_num_threads(1)
for turn in range(60):
    if turn == 20:  # by then the heap has grown to what is asked of it
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = [
        int(subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout)
        for how in ("plain", "prepared")
    ]
    assert faults[1] < faults[0] / 10


def test_resident_memory_is_counted_after_freed_memory_was_given_back() -> None:
    before = resident_bytes()
    held = torch.ones(1 << 25)
    with_it = resident_bytes()
    del held
    assert with_it - before > 100 << 20
    assert with_it - resident_bytes() > 100 << 20


def test_numbers_next_to_zero_are_zero_in_training_on_each_thread_and_nowhere_else() -> None:
    script = """
import sys, torch
from danlu.training.machine import denormals_flushed, prepare_machine
prepare_machine()
def count():
    return int(torch.full((1 << 20,), 1e-39).mul(1.0).gt(0).sum())  # each thread makes as many
print(sys.float_info.min / 2 > 0, count() == (1 << 20) // torch.get_num_threads())
with denormals_flushed():
    print(count())
    with denormals_flushed():
        pass
    print(count())
print(sys.float_info.min / 2 > 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "0", "0", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")
def test_holes_between_blocks_that_are_kept_go_back_to_the_system() -> None:
    script = """
import psutil, torch
from danlu.training.machine import close_holes, prepare_machine
prepare_machine()
blocks = [torch.ones(1 << 18) for _ in range(200)]
kept = blocks[::8]
del blocks
before = psutil.Process().memory_info().rss
close_holes()
print(before - psutil.Process().memory_info().rss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 150 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")
def test_while_a_base_is_loaded_what_is_freed_goes_back_at_once() -> None:
    script = """
import psutil, sys, torch
from danlu.training.machine import release_memory
release_memory(loading=sys.argv[1] == "loading")
blocks = [torch.ones(1 << 19) for _ in range(200)]  # of 2 MB
kept = blocks[::8]
before = psutil.Process().memory_info().rss
del blocks
print(before - psutil.Process().memory_info().rss)
"""

    def freed(when: str) -> int:
        """In a process of its own: holes that are there already are filled first, and stay."""
        words = [sys.executable, "-c", script, when]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert freed("usually") < 50 << 20
    assert freed("loading") > 300 << 20
