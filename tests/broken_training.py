"""Training with a part of what makes a resumed run the same run withheld; for the tests of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.training import loop
from danlu.training.checkpoint import Checkpoint
from danlu.training.feed import Feed
from danlu.training.session import Session
from danlu.workflows.kills import train


def without_seeding(path: str, words: Sequence[str], resume: bool) -> None:
    """Random numbers of a step are the next ones of the process, as if there were no seed for each step."""
    import torch

    seeded = []

    class OnlyOnce:
        """torch, that is seeded by the first step alone."""

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

        def manual_seed(self, seed: int) -> None:
            if not seeded:
                seeded.append(torch.manual_seed(0))

    loop.torch = OnlyOnce()  # type: ignore[assignment]
    train(path, words, resume)


def without_position(path: str, words: Sequence[str], resume: bool) -> None:
    """A run that goes on begins its data anew."""
    _after_resuming(lambda session, checkpoint: _begin_data_anew(checkpoint.step))
    train(path, words, resume)


def without_moments(path: str, words: Sequence[str], resume: bool) -> None:
    """A run that goes on has forgotten the optimizer's moments."""
    _after_resuming(lambda session, checkpoint: session.backend.optimizer.state.clear())
    train(path, words, resume)


def _after_resuming(change: Any) -> None:
    resume = Session.resume

    def resume_and_change(session: Session, checkpoint: Checkpoint) -> None:
        resume(session, checkpoint)
        change(session, checkpoint)

    Session.resume = resume_and_change  # type: ignore[method-assign]


def _begin_data_anew(done: int) -> None:
    batches = Feed.batches
    Feed.batches = lambda feed, step: batches(feed, step - done)  # type: ignore[method-assign]
