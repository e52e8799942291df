"""Memory that this process took."""

from __future__ import annotations

import resource
import sys


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far, in bytes (getrusage counts kibibytes on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_memory_bytes() -> int | None:
    """Most that this process had allocated on its GPU at once, in bytes; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
