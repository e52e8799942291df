"""Several processes on this machine: the same command in each, with torchrun's environment variables."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_POLL_SECONDS, _PATIENCE_SECONDS = 0.2, 30.0


def run_processes(arguments: Sequence[str], count: int) -> int:
    """Runs `danlu` with these arguments in several processes; the first one's output is this one's.

    When one ends badly the others are told to stop, and are killed if they do not.

    Args:
        arguments: of the command line, without `--nproc`.
        count: number of processes.

    Returns:
        Exit status: the first process's if it ended badly, for it speaks for all; else another's that did, or 0.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch's own calls by name are no news of a process that has left
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "danlu", *arguments],
            env={**quiet, **os.environ, **shared, "RANK": str(n), "LOCAL_RANK": str(n), "LOCAL_WORLD_SIZE": str(count)},
        )
        for n in range(count)
    ]
    try:
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all; a signal for this process is passed on, so that they save what they have."""

    def pass_on(number: int, _frame: Any) -> None:
        for child in children:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = 0
    waiting = list(children)
    while waiting and not status:
        for child in list(waiting):
            try:
                status = status or child.wait(_POLL_SECONDS)
                waiting.remove(child)
            except subprocess.TimeoutExpired:
                continue
    for child in waiting:
        try:
            child.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.terminate()
    status = children[0].poll() or status
    return status if status >= 0 else 128 - status
