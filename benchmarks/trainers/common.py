"""What every trainer under test shares: its arguments, rows and clock. Runs in any environment with transformers."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

RANK, ALPHA, LEARNING_RATE, SEED = 16, 32, 2e-4, 0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_parser() -> argparse.ArgumentParser:
    """The command line of each trainer; a trainer may add to it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, required=True, help="JSONL of {prompt, completion}: lists of messages")
    parser.add_argument("--model", required=True, help="folder of the base")
    parser.add_argument("--max-tokens", type=int, default=512, help="longer rows lose their end")
    parser.add_argument("--rows-per-step", type=int, default=16, help="rows of one optimizer step")
    parser.add_argument("--micro-batch", type=int, default=4, help="rows, or packs, of one forward pass")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--packed", action="store_true", help="rows side by side, without padding")
    return parser


def arguments() -> argparse.Namespace:
    """What this trainer was asked for."""
    return make_parser().parse_args()


def accumulated(asked: argparse.Namespace) -> int:
    """Forward passes of one optimizer step; a pack is taken for two rows, so `steps` may differ between trainers."""
    rows_per_step: int = asked.rows_per_step
    micro_batch: int = asked.micro_batch
    return max(1, rows_per_step // (micro_batch * (2 if asked.packed else 1)))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows, each with lists of messages under `prompt` and `completion`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tokenise(tokenizer: Any, row: dict[str, Any], max_tokens: int) -> dict[str, list[int]]:
    """Token ids and labels of a row, -100 on the prompt; cut at the end."""
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)[:max_tokens]
    kept = min(len(prompt), len(ids) - 1)
    return {"input_ids": ids, "labels": [-100] * kept + ids[kept:], "attention_mask": [1] * len(ids)}


def report(tokens: int, epochs: list[float], start: float | None, loss: float, **more: Any) -> None:
    """Prints the result as the last line.

    Args:
        tokens: of one epoch's rows, padding not counted.
        epochs: seconds of the first and of the second epoch.
        start: seconds from the end of the imports to the first step; None where that can't be told.
        loss: mean of the second epoch's steps.
        more: what else this trainer knows.
    """
    first, second = epochs
    result = {
        "tokens": tokens,
        "tokens_per_second": tokens / second,
        "first_epoch_seconds": first,
        "second_epoch_seconds": second,
        "start_seconds": start,
        "peak_rss_bytes": peak_rss_bytes(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "loss": loss,
        **more,
    }
    print(json.dumps(result), flush=True)


def peak_rss_bytes() -> int:
    """Largest resident size of this process; getrusage's would begin with that of the process that started it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def clock() -> Any:
    """A callback that keeps the time of each epoch of a Hugging Face trainer and its last loss."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """epochs: seconds of each; losses: of the last epoch's steps; loss: their mean."""

        def __init__(self) -> None:
            self.epochs: list[float] = []
            self.losses: list[float] = []
            self.begun = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()
            self.losses = []

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.losses.append(logs["loss"])

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epochs.append(time.perf_counter() - self.begun)

        @property
        def loss(self) -> float:
            return sum(self.losses) / max(1, len(self.losses))

    return Clock()
