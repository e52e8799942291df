"""The training loop. There is one; a method is an objective and a feed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from danlu.errors import Fault, WorkError
from danlu.training.backends import Backend
from danlu.training.feed import Feed
from danlu.training.objectives import Objective
from danlu.training.schedules import Schedule
from danlu.training.sequences import AnyBatch


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        number: counted from 1.
        loss: mean over the step's trained tokens.
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


def train(
    model: Any, objective: Objective, feed: Feed, backend: Backend, schedule: Schedule, max_norm: float | None
) -> Iterator[Step]:
    """Runs the feed's steps, yielding after each; the caller evaluates, logs and stops.

    Raises:
        WorkError: the loss is not finite.
    """
    for index in range(feed.num_steps):
        started = time.perf_counter()
        model.train()
        backend.set_learning_rate(schedule(index))
        loss_sum, weight, tokens = 0.0, 0.0, 0
        for batch in feed.batches(index):
            loss, batch_weight = objective(model, batch)
            backend.backward(loss)
            loss_sum += loss.item()
            weight += batch_weight
            tokens += batch.num_tokens
        if not math.isfinite(loss_sum):
            raise WorkError(
                Fault(
                    f"the loss of step {index + 1} is {loss_sum}",
                    "training",
                    hint="lower training.learning_rate, or set training.max_gradient_norm",
                )
            )
        norm = backend.step(weight, max_norm)
        seconds = time.perf_counter() - started
        yield Step(index + 1, loss_sum / weight, schedule(index), norm, tokens, int(weight), seconds)


def mean_loss(model: Any, objective: Objective, batches: Iterable[AnyBatch]) -> float:
    """Mean loss per unit of weight over batches, in evaluation mode and without gradients."""
    model.eval()
    loss_sum, weight = 0.0, 0.0
    with torch.no_grad():  # not inference_mode: states kept here may be trained on later
        for batch in batches:
            loss, batch_weight = objective(model, batch)
            loss_sum += loss.item()
            weight += batch_weight
    return loss_sum / weight
