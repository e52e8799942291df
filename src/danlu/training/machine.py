"""Threads and memory allocation, set for the machine before anything is computed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# glibc's names for what mallopt sets (malloc.h), and the largest block that is not fetched from the system anew.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _USUAL_BYTES, _LOADING_BYTES = 1 << 30, 1 << 25, 1 << 20
_KERNELS_KEPT = 64
_SHARED_AMONG_THREADS = 1 << 16  # numbers: of half as many, torch would make no threads


def prepare_machine(num_processes: int = 1) -> None:
    """As many threads as this process may use, and memory that is freed stays at hand.

    By default glibc gives large blocks back to the system at once and gets them again, page by page, for the next
    tensor; that was a tenth of a training step. oneDNN keeps a program for each shape that it met, 1,024 of them:
    fewer do. `num_processes` on this machine share its cores. What the user has set by OMP_NUM_THREADS or
    ONEDNN_PRIMITIVE_CACHE_CAPACITY stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS_KEPT))
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, usable_cores() // num_processes)))
    _set_allocator(_KEPT_BYTES)
    with denormals_flushed():
        torch.zeros(_SHARED_AMONG_THREADS).add_(1)  # makes torch's threads, which stay as the one that made them is


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """In here, numbers nearer to zero than 1e-38 are zero.

    An Intel core is many times slower with them, and a softmax that is sure of itself is full of them. Elsewhere they
    stay: others in this process may count on them.
    """
    flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def close_holes() -> None:
    """Gives back to the system what is free now; what is freed later still stays at hand.

    Between the steps of a training run little is held. Documents of other lengths leave other holes, and without this
    they added up: a run grew by a fifth in eight steps.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def release_memory(loading: bool = False) -> None:
    """Gives freed memory back to the system, and from now on as usual.

    What generates has caches that grow with every token: kept at hand, each size would leave a hole behind.

    Args:
        loading: what is freed between now and the next call goes back by blocks of 1 MB. Loading with conversion frees
            each weight once: of a base of one billion weights put into four bits, 0.3 to 1 GB of holes were left.
    """
    _set_allocator(_LOADING_BYTES if loading else _USUAL_BYTES)
    close_holes()


def _glibc() -> Any:
    """The library that allocates; None where another does."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set_allocator(kept_bytes: int) -> None:
    """Keeps freed blocks up to this size at hand."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, kept_bytes)
        library.mallopt(_TRIM_THRESHOLD, 2 * kept_bytes - 1)


def resident_bytes() -> int:
    """Memory of this process, after what it freed was given back."""
    _set_allocator(_KEPT_BYTES)
    close_holes()
    return int(psutil.Process().memory_info().rss)


def usable_cores(quota_path: Path = _CPU_QUOTA) -> int:
    """Cores that this process may use: by its affinity, and by the quota of its container, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_path.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
