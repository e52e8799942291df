"""A machine that has not enough, found out while a run trains: one message, and what was whole before stays whole."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from danlu.errors import Fault, WorkError, is_out_of_memory


@contextlib.contextmanager
def want_said(folder: Path, go_on: str) -> Iterator[None]:
    """Makes one message of what a full disk or too little memory raises, whichever library finds it out.

    Args:
        folder: what is written.
        go_on: what to type once there is room.

    Raises:
        WorkError: the disk, or this user's part of it, is full; or memory is not enough.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        where = str(getattr(error, "filename", None) or folder)
        hint = f"free some space there, and go on: {go_on}"
        raise WorkError(Fault("the disk is full; what was whole before is as it was", where, hint=hint)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = f"close other programs, or take a smaller training.micro_batch_tokens, and go on: {go_on}"
        raise WorkError(Fault("memory is not enough", str(folder), hint=hint)) from error


def _is_full(error: Exception) -> bool:
    """Safetensors says the system's error in words alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
