"""A disk that is full while a run trains: one message, and what was whole before stays whole."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from danlu.errors import Fault, WorkError


@contextlib.contextmanager
def full_disk_said(folder: Path, go_on: str) -> Iterator[None]:
    """Makes one message of what a full disk raises, whichever library finds it full.

    Args:
        folder: what is written.
        go_on: what to type once there is space.

    Raises:
        WorkError: the disk, or this user's part of it, is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_full(error):
            raise
        hint = f"free some space there, and go on: {go_on}"
        where = str(getattr(error, "filename", None) or folder)
        raise WorkError(Fault("the disk is full; what was whole before is as it was", where, hint=hint)) from error


def _is_full(error: Exception) -> bool:
    """Safetensors says the system's error in words alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(f"os error {number}" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
