"""Whether the run is long enough and not too long, and whether it can be judged."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.planning.findings import Finding
from danlu.planning.look import Look
from danlu.recipe.training_schema import ThreePhaseSchedule

_FEW_STEPS, _MANY_EPOCHS, _LARGE_MODEL, _LARGE_MODEL_ROWS = 10, 10, 3e9, 1500
_VERY_FEW_ROWS, _GOOD_ROWS = 100, 2000


def epochs(look: Look) -> Iterator[Finding]:
    """Many passes over few rows are learnt by heart."""
    if len(look.train) and look.num_epochs > _MANY_EPOCHS:
        what = f"{look.num_epochs:g} passes over {len(look.train):,} rows: they will be learnt by heart (overfitting)"
        hint = "1 to 3 are usual: training.num_epochs=3; more rows do more than more passes"
        yield Finding("warning", "too-many-epochs", what, "training.num_epochs", hint)


def rows_for_size(look: Look) -> Iterator[Finding]:
    """A large model learns a thousand rows by heart."""
    rows = len(look.train)
    if rows and look.num_parameters >= _LARGE_MODEL and rows < _LARGE_MODEL_ROWS:
        what = f"{look.num_parameters / 1e9:.1f} billion parameters on {rows:,} rows: it will overfit"
        hint = "gather 2,000 to 5,000 rows, keep training.num_epochs at 1 to 2, or take a smaller base"
        yield Finding("warning", "large-model-few-rows", what, "data.train", hint)


def rows(look: Look) -> Iterator[Finding]:
    """2,000 to 5,000 good rows are a good start."""
    count = len(look.train)
    if count and count < _GOOD_ROWS:
        few = count < _VERY_FEW_ROWS
        what = f"{count:,} training rows are {'very few' if few else 'few'}; 2,000 to 5,000 are a good start"
        hint = "add rows, or have some made: data.augmentation=[{type: synonym, share: 1.0}]"
        yield Finding("warning" if few else "note", "few-rows", what, "data.train", hint)


def steps(look: Look) -> Iterator[Finding]:
    """A handful of steps teach hardly anything."""
    if 0 < look.num_steps < _FEW_STEPS:
        what = f"the run has {look.num_steps} steps: hardly anything will be learnt"
        hint = "raise training.num_epochs or training.max_steps, or lower training.global_batch_size"
        yield Finding("warning", "few-steps", what, "training.num_epochs", hint)


def batch(look: Look) -> Iterator[Finding]:
    """A step does not take all rows at once."""
    size, count = look.recipe.training.global_batch_size, len(look.train)
    if count and size > count:
        what = f"a step takes {size} rows and there are {count}: each step sees every row"
        yield Finding("warning", "batch-too-large", what, "training.global_batch_size", "training.global_batch_size=8")


def unseen_rows(look: Look) -> Iterator[Finding]:
    """max_steps does not end the run before all rows were seen, unsaid."""
    training = look.recipe.training
    if len(look.train) and training.max_steps and look.num_epochs < min(1.0, training.num_epochs):
        what = f"training.max_steps ends the run after {look.num_epochs:.0%} of the rows"
        yield Finding("note", "rows-unseen", what, "training.max_steps", "leave it out to see all rows")


def schedule(look: Look) -> Iterator[Finding]:
    """The learning rate rises and falls as was meant."""
    training = look.recipe.training
    chosen, key = training.schedule, "training.schedule"
    warmup = getattr(chosen, "warmup_share", 0.0) or 0.0
    if warmup > 0.5:
        what = f"the learning rate rises over {warmup:.0%} of the steps and is hardly used"
        yield Finding("warning", "long-warmup", what, f"{key}.warmup_share", f"{key}.warmup_share=0.1")
    if isinstance(chosen, ThreePhaseSchedule) and chosen.floor_learning_rate >= training.learning_rate:
        what = f"the floor, {chosen.floor_learning_rate:g}, is not below the peak, {training.learning_rate:g}"
        hint = f"{key}.floor_learning_rate={training.learning_rate / 100:g}"
        yield Finding("error", "floor-above-peak", what, f"{key}.floor_learning_rate", hint)


def held_out(look: Look) -> Iterator[Finding]:
    """There are rows to judge by, enough and not too many."""
    held, count, key = len(look.held), len(look.train), "data.evaluation"
    if not held:
        what = "no rows are held out: nobody will see whether the run overfits, and nothing can be judged"
        yield Finding("warning", "nothing-held-out", what, key, "data.evaluation='{share: 0.1}'")
    elif held < 10 <= count:
        what = f"{held} held-out rows are too few to judge by"
        yield Finding("warning", "few-held-out", what, key, "hold out 50 or more, or a tenth")
    elif count and held > count:
        what = f"more rows are held out ({held:,}) than trained on ({count:,})"
        yield Finding("warning", "most-held-out", what, key, "data.evaluation='{share: 0.1}'")


def checkpoints(look: Look) -> Iterator[Finding]:
    """Checkpoints that are asked for come to be written."""
    section = look.recipe.training.checkpoints
    every = getattr(section, "every_steps", None)
    if section is not None and every and look.num_steps and every >= look.num_steps:
        what = f"a checkpoint every {every} steps is never written in {look.num_steps} steps"
        hint = f"training.checkpoints.every_steps={max(1, look.num_steps // 4)}"
        yield Finding("warning", "no-checkpoint", what, "training.checkpoints.every_steps", hint)


def evaluation_interval(look: Look) -> Iterator[Finding]:
    """Evaluation losses that are asked for come to be taken."""
    every = look.recipe.training.evaluate_every_steps
    if every and look.num_steps and every > look.num_steps:
        what = f"an evaluation every {every} steps comes once, at the end of {look.num_steps} steps"
        hint = f"training.evaluate_every_steps={max(1, look.num_steps // 5)}"
        yield Finding("warning", "no-evaluation-between", what, "training.evaluate_every_steps", hint)
