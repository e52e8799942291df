"""What a run keeps on the way, and whether it ends early; all processes decide alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from danlu.recipe.training_schema import TrainingSection
from danlu.training.best import Best
from danlu.training.checkpoint import read_checkpoint, write_checkpoint
from danlu.training.loop import Step
from danlu.training.recovery import guarded_steps

_STEPS_TO_GO_BACK = 100
_ROUNDING = 1e-9  # three epochs of 0.1 are a little more than 0.3


class Keeper:
    """Watches the evaluation loss of a run and writes its checkpoints.

    Args:
        session: of the run, at its first step or at a checkpoint's.
        folder: the run folder.
        training: the recipe's.
    """

    def __init__(self, session: Any, folder: Path, training: TrainingSection) -> None:
        self._session, self._folder = session, folder
        self._saves_best, self._stopping = training.save == "best", training.early_stopping
        self._checkpoints = training.checkpoints
        self._keeps_best = self._saves_best or bool(self._checkpoints and self._checkpoints.keep_best)
        self.best: Best = session.best
        self.done: int = session.first_step
        self._better = False

    @property
    def stopped_early(self) -> bool:
        """Whether the evaluation loss has been no better for too long."""
        return self._stopping is not None and self.best.waited >= self._stopping.patience

    @property
    def over(self) -> bool:
        """Whether no step is left to do."""
        ends = self.done >= self._session.feed.num_steps or self.stopped_early
        return ends and not self._session.guard.retreating

    @property
    def goes_on(self) -> bool:
        """Whether the next step follows from this one."""
        return not self.over and not self._session.guard.retreating

    def steps(self, cut: Callable[[int], None], quiet: bool) -> Iterator[Step]:
        """The session's steps under guard, those that are left; each is to be noted.

        Args:
            cut: takes back what else was noted of the steps after one, to which the run goes back.
            quiet: nothing is said.
        """

        def go_back(step: int) -> None:
            self.best, self.done = self._session.best, step
            cut(step)

        def keep(_: int) -> None:
            self.checkpoint(good=True)

        left = () if self.over else guarded_steps(self._session, self._folder, keep, go_back, quiet)
        for step in left:
            yield step
            if self.stopped_early and self.over:
                return

    def note(self, step: int, evaluation_loss: float | None) -> None:
        """Notes that a step is done, and the loss on held-out rows where it was taken."""
        self.done, self._better = step, False
        if evaluation_loss is None:
            return
        session = self._session
        # What others may have rounded otherwise is the first one's for all.
        loss = session.backend.total(evaluation_loss if session.processes.first else 0.0)
        self.best = self.best.after(step, loss, self._stopping.min_delta if self._stopping else 0.0)
        self._better = self.best.step == step

    def keep(self, asked_to_stop: bool) -> None:
        """Writes a checkpoint where one is due: by steps or epochs, at the best, before a stop, at the end.

        A run may go back to those that would be there without a stop.
        """
        at_the_best = self._keeps_best and self._better and not self.over
        regular = at_the_best or (self._checkpoints is not None and self.over) or self._due()
        if asked_to_stop or regular:
            self.checkpoint(regular)

    def checkpoint(self, good: bool = False) -> None:
        """Writes a checkpoint of the step that is done; `good` if the run may go back to it."""
        checkpoint = self._session.checkpoint(self.done, self.best, good)
        if self._session.processes.first:
            keep_last = self._checkpoints.keep_last if self._checkpoints else 1
            write_checkpoint(self._folder, checkpoint, keep_last, self._keeps_best)

    def choose_weights(self) -> int:
        """Puts the weights in place that are to be saved; gives the step that they are of.

        Raises:
            FolderError: the checkpoint of the best is not what was written.
        """
        best = self.best.step
        if not self._saves_best or best is None or best == self.done:
            return self.done
        self._session.backend.load(read_checkpoint(self._folder, best).trained)
        return best

    def _due(self) -> bool:
        """Where the recipe wants one; without, so often that a run that goes wrong can go back."""
        if self._checkpoints is None:
            goes_back = self._session.guard.limits.max_retries > 0
            return goes_back and not self.over and self.done % _STEPS_TO_GO_BACK == 0
        every_steps, every_epochs = self._checkpoints.every_steps, self._checkpoints.every_epochs
        if every_steps is not None:
            return self.done % every_steps == 0
        if every_epochs is None:
            return False
        now, before = (float(self._session.feed.epoch(step)) / every_epochs for step in (self.done, self.done - 1))
        return math.floor(now + _ROUNDING) > math.floor(before + _ROUNDING)
