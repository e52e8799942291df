"""What is seen of training: a drawing in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import math
import os
import pty
import re
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from danlu.tracking.live import TrainingView, sparkline, training_view

PROGRAM = """
import time
from danlu.tracking.live import training_view
from danlu.tracking.progress import say
with training_view(40, 10) as view:
    for step in range(11, 41):
        view.update({"step": step, "loss": 40 / step, "learning_rate": 2e-4, "gradient_norm": 0.5, "tokens": 300,
                     "seconds": 0.5, **({"evaluation_loss": 1.25} if step == 20 else {})}, 2_210_000_000)
        if step == 25:
            say("tracker wandb: is away; the run goes on")
        time.sleep(0.02)
"""


def line(step: int, loss: float) -> dict[str, Any]:
    numbers = {"learning_rate": 1.5e-4, "gradient_norm": 0.83, "tokens": 400, "seconds": 0.5}
    return {"step": step, "loss": loss, **numbers}


def drawn(view: TrainingView, width: int, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=False, legacy_windows=False)
    console.print(view)
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()


def test_a_sparkline_goes_from_the_smallest_to_the_largest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0], 8) == "▁"
    assert sparkline([2.0] * 4, 8) == "▁▁▁▁"
    assert sparkline([], 8) == ""
    assert sparkline([9, 7, 5, 5, 1, 1, 1, 1], 4) == "█▅▁▁", "means of two"
    assert sparkline([1.0, math.nan, 2.0, math.inf], 8) == "▁!█!"


@pytest.mark.parametrize("width", [40, 60, 120])
def test_all_that_matters_is_drawn_and_fits(width: int) -> None:
    view = TrainingView(60)
    for step in range(1, 38):
        view.update({**line(step, 4.0 / step), **({"evaluation_loss": 0.388} if step == 30 else {})}, 2_210_000_000)
    lines = drawn(view, width)
    text = " ".join(" ".join(lines).split())
    assert all(len(one) <= width for one in lines)
    for shown in ("37/60", "0.108", "held out 0.388 (step 30)", "800 tokens/s", "1.50e-04", "0.83", "2.21 GB", "left"):
        assert shown in text, shown
    assert "█" in text


def test_a_terminal_without_blocks_gets_plain_characters() -> None:
    view = TrainingView(2)
    view.update(line(1, 2.0), 10**9)
    view.update(line(2, 1.0), 10**9)
    assert "#_" in "".join(drawn(view, 80, "ascii"))


def test_time_that_is_left_counts_the_steps_of_this_start_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    view = TrainingView(100, first_step=80)
    now[0] = 150.0
    view.update(line(90, 1.0), 10**9)
    assert view._left == "0:00:50 left"


def test_in_a_terminal_it_is_drawn_and_what_is_said_stays_above_it() -> None:
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "LANG": "C.UTF-8"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=child, stdin=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the terminal is closed
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "tracker wandb: is away; the run goes on" in text
    last = text[text.rindex("training") :]
    for part in ("40/40", "held out 1.250 (step 20)", "600 tokens/s", "2.00e-04", "2.21 GB", "█"):
        assert part in last, last


def test_elsewhere_it_is_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with training_view(2) as view:
        view.update(line(1, 2.0), 10**9)
        view.update(line(2, 1.0), 10**9)
    assert capfd.readouterr().err == "training 2/2 loss 1.000  800 tokens/s  1.0 GB\n"
    with training_view(1, quiet=True) as view:
        view.update(line(1, 2.0), 10**9)
    assert capfd.readouterr().err == ""
