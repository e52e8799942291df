"""Danlu as `danlu train` runs it: the same data stage, session and loop, from a recipe; run with Danlu's own python.

Left out are what stands around the steps and what the other trainers don't do: evaluation, probes, the run folder.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import tempfile
import time
from pathlib import Path

from common import ALPHA, LEARNING_RATE, RANK, SEED, TARGETS, make_parser, report

from danlu.data.run import prepare
from danlu.engines.local import local_answers
from danlu.models.source import find_model
from danlu.models.tokenizer import load_tokenizer
from danlu.recipe import load_recipe
from danlu.training.session import Session


def arguments() -> argparse.Namespace:
    """What this trainer was asked for."""
    parser = make_parser()
    parser.add_argument("--micro-batch-tokens", type=int, help="of one forward pass; else the recipe's default")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="any recipe key")
    parser.add_argument("--plain-loss", action="store_true", help="all logits at once, to see what chunks save")
    return parser.parse_args()


def make_session(asked: argparse.Namespace) -> Session:
    """Everything up to the first step, by a recipe of two epochs. Danlu packs always; `packed` changes nothing."""
    recipe = {
        "model": {"name": asked.model, "dtype": asked.dtype},
        "data": {
            "train": [str(asked.rows.resolve())],
            "max_sequence_tokens": asked.max_tokens,
            "too_long": "cut_answer",
            "num_workers": 1,  # within this process, so that its memory counts as the others' does
        },
        "adapter": {"type": "lora", "rank": RANK, "alpha": ALPHA, "target_modules": TARGETS},
        "training": {
            "learning_rate": LEARNING_RATE,
            "schedule": {"type": "constant"},
            "num_epochs": 2,
            "global_batch_size": asked.rows_per_step,
        },
        "run": {"seed": SEED},
    }
    overrides = list(asked.override)
    if asked.micro_batch_tokens:
        overrides.append(f"training.micro_batch_tokens={asked.micro_batch_tokens}")
    with tempfile.TemporaryDirectory() as folder:
        base = find_model(asked.model)
        os.environ["DANLU_HOME"] = folder  # nothing that was prepared before is taken, and nothing is left behind
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")
        loaded = load_recipe(path, overrides)
        session = Session(loaded.recipe, base, load_tokenizer(base), prepare(loaded, base, local_answers))
    if asked.plain_loss:
        session.objective = session.engine.plain
    return session


def first_epoch_steps(session: Session) -> int:
    """Optimizer steps of the first of two epochs."""
    return math.ceil(session.feed.num_steps / 2)


def main() -> None:
    """Two epochs; the second is timed."""
    begun = time.perf_counter()
    session = make_session(arguments())
    ready = time.perf_counter()
    steps = session.steps()
    list(itertools.islice(steps, first_epoch_steps(session)))
    half = time.perf_counter()
    second = list(steps)
    ended = time.perf_counter()
    if not second:
        raise SystemExit("one step takes all rows twice: fewer --rows-per-step are needed")
    tokens = sum(step.tokens for step in second)
    loss = sum(step.loss for step in second) / len(second)
    trained = sum(step.trained_tokens for step in second)
    engine, plan = session.engine.name, session.memory
    report(
        tokens,
        [half - ready, ended - half],
        ready - begun,
        loss,
        trained_tokens=trained,
        steps=len(second),
        engine=engine,
        micro_batch_tokens=plan.micro_batch_tokens,
    )


if __name__ == "__main__":
    main()
