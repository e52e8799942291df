"""A server that the gateway starts: waited for, watched, started again, ended with all that it started."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from danlu.errors import ResourceError
from danlu.serving.backends.child import Child

STAND_IN = str(Path(__file__).parents[2] / "vllm_stand_in.py")


def child(*words: str, ready_seconds: float = 20, on_restart: Callable[[], None] = lambda: None) -> Child:
    def command(port: int) -> list[str]:
        return [sys.executable, STAND_IN, "serve", "model", "--port", str(port), *words]

    return Child(command, dict(os.environ), ready_seconds, on_restart)


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists() and "Z" not in Path(f"/proc/{process}/stat").read_text().split()[2]


def test_it_answers_once_it_is_there_and_ends_with_its_own_children() -> None:
    made = child("--with-child")
    assert httpx.get(f"{made.url}/health").status_code == 200
    until(lambda: "child is" in made.said)
    grandchild = int(made.said.split("child is ")[1].split()[0])
    assert alive(grandchild)
    made.close()
    assert made.process.poll() is not None
    until(lambda: not alive(grandchild))


def test_one_that_ends_is_started_again_and_said_so() -> None:
    again = threading.Event()
    made = child(on_restart=again.set)
    first = made.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: made.fault is not None, 5)
    assert "ended with status -9" in str(made.fault)
    assert again.wait(20)
    until(lambda: made.fault is None)
    assert made.process.pid != first
    assert httpx.get(f"{made.url}/health").status_code == 200
    made.close()


def test_one_that_does_not_start_says_why() -> None:
    with pytest.raises(ResourceError, match="ended with status 3: ValueError: no such model"):
        child("--fails")
    with pytest.raises(ResourceError, match="instructions that this one lacks"):
        child("--illegal")
    with pytest.raises(ResourceError, match="did not answer in 1 s"):
        child("--sleeps", ready_seconds=1)
