"""Who is gone is noticed; who ends by itself meanwhile is let."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
import torch

from danlu.training import heartbeat
from danlu.training.heartbeat import Heartbeat


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Statuses with which the program would have ended."""
    statuses: list[int] = []
    monkeypatch.setattr(heartbeat.os, "_exit", statuses.append)
    monkeypatch.setattr(heartbeat, "_BEAT_SECONDS", 0.05)
    return statuses


def beating_alone() -> Heartbeat:
    """Process 1, whose store has left with process 0."""
    kept = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = torch.distributed.TCPStore("127.0.0.1", kept.port, is_master=False, timeout=timedelta(seconds=5))
    heart = Heartbeat(1, 2, client)
    time.sleep(0.2)
    del kept
    return heart


def test_a_process_that_ends_by_itself_after_the_others_is_let(
    ended: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeat, "_GRACE_SECONDS", 60.0)
    heart = beating_alone()
    time.sleep(0.5)
    heart.leave()
    assert ended == []
    assert "error: " not in capsys.readouterr().err


def test_a_process_that_does_not_end_is_ended(
    ended: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(heartbeat, "_GRACE_SECONDS", 0.2)
    heart = beating_alone()
    time.sleep(1.0)
    heart.leave()
    assert ended[:1] == [1]
    assert "error: the other processes can't be reached" in capsys.readouterr().err
