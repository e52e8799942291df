"""How the evaluation loss of a run has gone so far: what was best, and for how long nothing was better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """The best evaluation so far. It lies in every checkpoint, so that a run that goes on decides as if never stopped.

    Attributes:
        step: of the lowest loss; None before the first evaluation.
        evaluation_loss: the lowest.
        reference: the last loss that lay more than `min_delta` below the reference before it.
        waited: evaluations since that one.
    """

    step: int | None = None
    evaluation_loss: float | None = None
    reference: float | None = None
    waited: int = 0

    def after(self, step: int, evaluation_loss: float, min_delta: float = 0.0) -> Best:
        """The best after one more evaluation; a loss that is no number is never better."""
        lowest = self.evaluation_loss is None or evaluation_loss < self.evaluation_loss
        better = self.reference is None or evaluation_loss < self.reference - min_delta
        if evaluation_loss != evaluation_loss:
            lowest = better = False
        return Best(
            step if lowest else self.step,
            evaluation_loss if lowest else self.evaluation_loss,
            evaluation_loss if better else self.reference,
            0 if better else self.waited + 1,
        )
