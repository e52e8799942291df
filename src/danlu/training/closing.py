"""What `danlu train` ends with, for people."""

from __future__ import annotations

from typing import Any

from danlu.tracking.remote import losses
from danlu.training.verdict import verdict_lines


def closing_text(result: dict[str, Any]) -> str:
    """The run in a line, how it ended, what its curves say, what trackers lost, and what to type next.

    Args:
        result: of `run_training`.
    """
    figures = [
        f"{result['steps']} steps in {result['seconds']:.0f} s",
        _said("loss {:.3f}", result["train_loss"]),
        _said("held out {:.3f}", result["evaluation_loss"]),
        _said("{:.0f} tokens/s", result["tokens_per_second"]),
        f"peak {result['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    lines = [", ".join(figure for figure in figures if figure)]
    if result["stopped_early"]:
        lines.append(f"ended early: nothing was better than step {result['best_step']}'s held-out loss")
    if result["saved_step"] != result["steps"]:
        lines.append(f"saved: the weights of step {result['saved_step']}, the best on held-out rows")
    folder = result["run_folder"]
    return "\n".join(
        [
            *lines,
            *verdict_lines(result["verdict"]),
            *losses(result["trackers"]),
            f"  run     {folder}",
            f"  next    danlu evaluate {folder}",
        ]
    )


def _said(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)
