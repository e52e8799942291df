"""The training loop. There is one; a method is an objective and a feed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from danlu.training.backends.interface import Backend
from danlu.training.feed import Feed
from danlu.training.guards import Guard
from danlu.training.machine import close_holes, denormals_flushed
from danlu.training.objectives import Objective
from danlu.training.schedules import Schedule
from danlu.training.sequences import AnyBatch
from danlu.training.shrinking import fewer_tokens, within_memory

ALL_LEFT_OUT = "all of its rows were set aside before"


@dataclass(frozen=True)
class Step:
    """What one optimizer step did.

    Attributes:
        number: counted from 1.
        loss: mean over the step's trained tokens of what is minimised, with smoothed labels where they are.
        learning_rate: of the update.
        gradient_norm: before clipping; not a number where it was not asked for.
        tokens: tokens of the step's documents.
        trained_tokens: those with a loss.
        seconds: wall-clock time of the step.
        micro_batch_tokens: most computed tokens of its forward passes.
        fault: why there was no update; empty if there was one.
    """

    number: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    trained_tokens: int
    seconds: float
    micro_batch_tokens: int
    fault: str = ""


@dataclass(frozen=True)
class Course:
    """How the steps of a run follow one another.

    Attributes:
        schedule: learning rate by step.
        max_norm: gradients are clipped to it; None: not at all.
        seed: of what is random within a step, such as dropout; with the step's number and the process's, it is all
            that these numbers depend on.
        first_step: where to begin, counted from 0.
        shrinks: whether a step for which memory is not enough is done again in smaller micro-batches, and those after
            it too.
    """

    schedule: Schedule
    max_norm: float | None
    seed: int = 0
    first_step: int = 0
    shrinks: bool = True


def train(
    model: Any, objective: Objective, feed: Feed, backend: Backend, course: Course, guard: Guard | None = None
) -> Iterator[Step]:
    """Runs the feed's steps, yielding after each; the caller evaluates, logs, stops, and goes back.

    Args:
        model: as it is called.
        objective: gives a loss to minimise.
        feed: the micro-batches of each step.
        backend: computes gradients, updates.
        course: how the steps follow one another.
        guard: says which steps have no update; None: one whose loss is not finite ends the run.

    Raises:
        WorkError: the loss is not finite; or memory is not enough for a row alone.
    """
    guard = guard or Guard(None)
    for index in range(course.first_step, feed.num_steps):
        started = time.perf_counter()
        rate = course.schedule(index) * guard.rate_factor
        if not feed.documents(index):
            seconds = time.perf_counter() - started
            yield Step(index + 1, math.nan, rate, math.nan, 0, 0, seconds, feed.micro_batch_tokens, ALL_LEFT_OUT)
            continue
        backend.set_learning_rate(rate)
        with denormals_flushed():
            passes = None
            while passes is None:
                model.train()
                torch.manual_seed(_step_seed(course.seed, index, feed.rank))
                batches = feed.batches(index)
                weight = backend.total(sum(batch.weight for batch in batches))
                compute = functools.partial(_gradients, model, objective, batches, weight, backend)
                passes = within_memory(compute, backend, course.shrinks)
                if passes is None:
                    feed.micro_batch_tokens = fewer_tokens(feed.documents(index), feed.micro_batch_tokens)
            loss, tokens = backend.total(passes[0]) / weight, round(backend.total(passes[1]))
            fault, norm = guard.fault_of_loss(loss), math.nan
            if fault:
                backend.drop()
            else:
                norm, fault = backend.step(course.max_norm, guard.fault_of_norm)
        guard.note(index + 1, loss, norm, fault)
        close_holes()
        seconds = time.perf_counter() - started
        yield Step(index + 1, loss, rate, norm, tokens, int(weight), seconds, feed.micro_batch_tokens, fault)


def _gradients(
    model: Any, objective: Objective, batches: Sequence[AnyBatch], weight: float, backend: Backend
) -> tuple[float, int]:
    """Adds up the gradients of a step's micro-batches; the summed loss and the tokens of this process."""
    loss_sum, tokens = 0.0, 0
    for place, batch in enumerate(batches, 1):
        loss, _ = objective(model, batch)
        backend.backward(loss / weight if batch.counted else loss * 0.0, place == len(batches))
        if batch.counted:
            loss_sum += loss.item()
            tokens += batch.num_tokens
    return loss_sum, tokens


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
    # Not inference_mode: states kept here may be trained on later.
    with torch.no_grad(), denormals_flushed():
        for batch in batches:
            loss, batch_weight = objective(model, batch)
            loss_sum += loss.item() if batch.counted else 0.0
            weight += batch_weight
    return total(loss_sum) / total(weight)
