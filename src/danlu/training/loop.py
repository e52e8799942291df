"""The training loop. There is one; a method is an objective and a feed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from danlu.errors import Fault, WorkError
from danlu.training.backends.interface import Backend
from danlu.training.feed import Feed
from danlu.training.objectives import Objective
from danlu.training.schedules import Schedule
from danlu.training.sequences import AnyBatch


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        number: counted from 1.
        loss: mean over the step's trained tokens of what is minimised, with smoothed labels where they are.
        learning_rate: of the update.
        gradient_norm: before clipping.
        tokens: tokens of the step's documents.
        trained_tokens: those with a loss.
        seconds: wall-clock time of the step.
    """

    number: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    seconds: float


@dataclass(frozen=True)
class Course:
    """How the steps of a run follow one another.

    Attributes:
        schedule: learning rate by step.
        max_norm: gradients are clipped to it; None: not at all.
        seed: of what is random within a step, such as dropout; with the step's number and the process's, it is all
            that these numbers depend on.
        first_step: where to begin, counted from 0.
    """

    schedule: Schedule
    max_norm: float | None
    seed: int = 0
    first_step: int = 0


def train(model: Any, objective: Objective, feed: Feed, backend: Backend, course: Course) -> Iterator[Step]:
    """Runs the feed's steps, yielding after each; the caller evaluates, logs and stops.

    Raises:
        WorkError: the loss is not finite.
    """
    for index in range(course.first_step, feed.num_steps):
        started = time.perf_counter()
        model.train()
        torch.manual_seed(_step_seed(course.seed, index, feed.rank))
        backend.set_learning_rate(course.schedule(index))
        batches = feed.batches(index)
        weight = backend.total(sum(batch.weight for batch in batches))
        loss_sum, tokens = 0.0, 0
        for place, batch in enumerate(batches, 1):
            loss, _ = objective(model, batch)
            backend.backward(loss / weight if batch.counted else loss * 0.0, place == len(batches))
            if batch.counted:
                loss_sum += loss.item()
                tokens += batch.num_tokens
        loss_sum, tokens = backend.total(loss_sum), round(backend.total(tokens))
        if not math.isfinite(loss_sum):
            raise WorkError(
                Fault(
                    f"the loss of step {index + 1} is {loss_sum}",
                    "training",
                    hint="lower training.learning_rate, or set training.max_gradient_norm",
                )
            )
        norm = backend.step(course.max_norm)
        seconds = time.perf_counter() - started
        yield Step(index + 1, loss_sum / weight, course.schedule(index), norm, tokens, int(weight), seconds)


def _step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each step and process."""
    return ((seed + 1) * 1_000_003 + step) * 65_537 + rank


def mean_loss(
    model: Any, objective: Objective, batches: Iterable[AnyBatch], total: Callable[[float], float] = float
) -> float:
    """Mean loss per unit of weight over batches, in evaluation mode and without gradients.

    Args:
        model: as the loop calls it.
        objective: gives the losses.
        batches: of this process.
        total: sums a number over all processes.
    """
    model.eval()
    loss_sum, weight = 0.0, 0.0
    with torch.no_grad():  # not inference_mode: states kept here may be trained on later
        for batch in batches:
            loss, batch_weight = objective(model, batch)
            loss_sum += loss.item() if batch.counted else 0.0
            weight += batch_weight
    return total(loss_sum) / total(weight)
