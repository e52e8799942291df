"""How large one row may be. Beyond these a file is damaged or not meant for training, and memory would be at risk."""

from __future__ import annotations

MAX_ROW_BYTES = 16 << 20
MAX_COLUMNS = 10_000
MAX_DEPTH = 100  # of lists and objects within each other; pickling and walking a row recurse as deep
MAX_SHOWN_FAULTS = 5
BLOCK_BYTES = 1 << 18  # read at a time: larger blocks are no faster and leave the processor's cache


def too_large(num_bytes: int) -> str:
    """The reason with which a row of that many bytes is dropped."""
    return f"row is larger than {MAX_ROW_BYTES / (1 << 20):g} MiB: {num_bytes / (1 << 20):.1f} MiB"
