"""What is seen of training in a terminal: how far it is, the loss as a line of blocks, speed, memory, learning rate."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from danlu.tracking.interface import Line
from danlu.tracking.progress import Progress

_BLOCKS, _PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
_WIDEST = 48


class TrainingView:
    """Steps of training, drawn live or told in a line now and then.

    Args:
        total: number of steps.
        first_step: those that were done before.
        quiet: show nothing.
    """

    def __init__(self, total: int, first_step: int = 0, quiet: bool = False) -> None:
        self._total, self._first_step, self._done = total, first_step, first_step
        self._plain = Progress("training", total, quiet)
        self._started = time.monotonic()
        self._losses: list[float] = []
        self._tokens, self._seconds = 0, 0.0
        self._line: Line = {}
        self._held: tuple[int, float] | None = None
        self._memory_bytes = 0
        self._live: Any = None

    def update(self, line: Line, memory_bytes: int) -> None:
        """Shows a step's line of metrics."""
        self._done, self._line, self._memory_bytes = line["step"], line, memory_bytes
        self._losses.append(_number(line["loss"]))
        self._tokens, self._seconds = self._tokens + line["tokens"], self._seconds + line["seconds"]
        if line.get("evaluation_loss") is not None:
            self._held = line["step"], line["evaluation_loss"]
        if self._live is not None:
            self._live.update(self)
            return
        note = f"loss {_number(line['loss']):.3f}  {self._speed}  {memory_bytes / 1e9:.1f} GB"
        self._plain.update(self._done, note)

    @property
    def _speed(self) -> str:
        return f"{self._tokens / max(self._seconds, 1e-9):.0f} tokens/s"

    @property
    def _left(self) -> str:
        """Time that is left, at the mean pace so far."""
        steps = self._done - self._first_step
        if not steps:
            return ""
        seconds = round((time.monotonic() - self._started) / steps * (self._total - self._done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Three lines; see rich's console protocol."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(padding=(0, 2))
        width = max(8, min(_WIDEST, options.max_width - 40))
        drawn = ProgressBar(total=self._total, completed=self._done, width=width)
        bar.add_row(Text("training"), drawn, Text(f"{self._done}/{self._total}"), Text(self._left))
        yield bar
        if not self._line:
            return
        held = f"   held out {self._held[1]:.3f} (step {self._held[0]})" if self._held else ""
        blocks = _BLOCKS if "utf" in console.encoding.lower() else _PLAIN_BLOCKS
        yield Text(f"loss      {sparkline(self._losses, width, blocks)}  {_number(self._line['loss']):.3f}{held}")
        yield Text(
            f"{self._speed}   learning rate {self._line['learning_rate']:.2e}   "
            f"gradient norm {_number(self._line['gradient_norm']):.2f}   {self._memory_bytes / 1e9:.2f} GB"
        )


def _number(value: float | None) -> float:
    """A line of metrics has null where a number is not finite."""
    return math.nan if value is None else value


@contextlib.contextmanager
def training_view(total: int, first_step: int = 0, quiet: bool = False) -> Iterator[TrainingView]:
    """A `TrainingView` that is drawn where stderr is a terminal."""
    view = TrainingView(total, first_step, quiet)
    if quiet or not sys.stderr.isatty():
        yield view
        return
    from rich.console import Console
    from rich.live import Live

    with Live(view, console=Console(stderr=True, highlight=False), refresh_per_second=4) as live:
        view._live = live
        yield view


def sparkline(values: Sequence[float], width: int, blocks: str = _BLOCKS) -> str:
    """Numbers as a line of blocks, from the smallest to the largest; means where there are more than `width`.

    What is not finite is an exclamation mark.
    """
    count = min(len(values), width)
    parts = [values[place * len(values) // count : (place + 1) * len(values) // count] for place in range(count)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, span = (min(finite), max(finite) - min(finite)) if finite else (0.0, 0.0)

    def block(mean: float) -> str:
        if not math.isfinite(mean):
            return "!"
        return blocks[round((mean - low) / span * (len(blocks) - 1)) if span else 0]

    return "".join(block(mean) for mean in means)
