"""What makes a step suspicious, and what follows: its rows are set aside, or the run goes back and learns slower.

A loss or a gradient norm that is not finite, or far above what it was, trips: the update is not made. Such a step is
put down to its rows, and left out; but three in a row of which most rows are far above are put down to the weights:
the run goes back to its last good checkpoint, and goes on with a smaller learning rate. All of it follows from the
numbers of the steps, which every process has alike, and from what a checkpoint keeps: a run that is resumed decides
as one that never stopped.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from danlu.errors import Fault, WorkError

TOO_MANY_IN_A_ROW = 3
_ENOUGH_STEPS = 8  # before that, what is usual is not known
_EARLY_RISE = 5.0  # nats by which a loss may rise until then
_NORMAL = 1.4826  # median absolute deviation of a normal distribution to its standard deviation
# Below this no difference of logarithms is a spread: losses of large batches differ by less, norms by more.
_LOSS_SPREAD, _NORM_SPREAD, _LOSS_OFFSET = 0.15, 0.5, 0.5
_TINY, _LARGEST_LOG = 1e-30, 700.0


@dataclass(frozen=True)
class Limits:
    """How much a run may go wrong.

    Attributes:
        spike_factor: spreads above the median, of logarithms, that a step may be; None: any number that is finite.
        window_steps: good steps that the median is taken of.
        max_quarantined_steps: steps that may be set aside.
        max_retries: how often the run may go back.
        learning_rate_factor: times the rate, each time that it goes back.
    """

    spike_factor: float | None
    window_steps: int
    max_quarantined_steps: int
    max_retries: int
    learning_rate_factor: float


NO_LIMITS = Limits(None, 1, 0, 0, 1.0)


class Guard:
    """Judges each step by those before it.

    Args:
        limits: None: a loss that is not finite ends the run at once.

    Attributes:
        streak: steps in a row, up to now, that tripped by more than some of their rows.
        quarantined: steps that were set aside.
        left_out: rows that were to blame, by their number in the training data, each with the step of it; they are
            not trained on in later steps.
        retreats: each time that the run went back: `from_step`, `to_step`, `reason`.
        good_step: of the checkpoint to go back to.
        tripped: the last step that tripped, and by what.
    """

    def __init__(self, limits: Limits | None) -> None:
        self.limits, self.active = limits or NO_LIMITS, limits is not None
        self._losses, self._norms = (deque[float](maxlen=self.limits.window_steps) for _ in range(2))
        self.streak = self.quarantined = self.good_step = 0
        self.left_out: dict[int, int] = {}
        self.retreats: list[dict[str, Any]] = []
        self.tripped = ""

    @property
    def rate_factor(self) -> float:
        """What the scheduled learning rate is multiplied by."""
        return float(self.limits.learning_rate_factor ** len(self.retreats))

    @property
    def retreating(self) -> bool:
        """Whether the run must go back before it goes on."""
        return self.streak >= TOO_MANY_IN_A_ROW

    def fault_of_loss(self, loss: float) -> str:
        """What is wrong with a step's loss; empty if nothing is."""
        return self._fault("loss", loss, self.most_loss())

    def fault_of_norm(self, norm: float) -> str:
        """What is wrong with a step's gradient norm; empty if nothing is."""
        most = math.inf
        if self.limits.spike_factor and len(self._norms) >= _ENOUGH_STEPS:
            most = usual(self._norms, self.limits.spike_factor, _NORM_SPREAD)
        return self._fault("gradient norm", norm, most)

    def most_loss(self) -> float:
        """The highest loss that is usual now; at first only one that is far above all of them is not."""
        if not self.limits.spike_factor or not self._losses:
            return math.inf
        if len(self._losses) < _ENOUGH_STEPS:
            return max(2 * max(self._losses), max(self._losses) + _EARLY_RISE)
        return usual(self._losses, self.limits.spike_factor, _LOSS_SPREAD, _LOSS_OFFSET)

    def _fault(self, what: str, value: float, most: float) -> str:
        if not math.isfinite(value):
            return f"the {what} is {value}"
        return f"the {what} is {value:.4g}, and at most {most:.4g} is usual" if value > most else ""

    def note(self, number: int, loss: float, norm: float, fault: str) -> None:
        """Takes a step, counted from 1, into account.

        Raises:
            WorkError: it tripped, and nothing is to be done about it.
        """
        if fault and not self.active:
            hint = "lower training.learning_rate, or let training.guards set such steps aside"
            raise WorkError(Fault(f"step {number}: {fault}", "training", hint=hint))
        if fault:
            self.streak, self.quarantined = self.streak + 1, self.quarantined + 1
            self.tripped = f"step {number}: {fault}"
            return
        self.streak = 0
        self._losses.append(loss)
        if math.isfinite(norm):  # in float16 it need not be
            self._norms.append(norm)

    def clear_weights(self) -> None:
        """Puts a step that tripped down to some of its rows: the others are as usual, and so are the weights."""
        self.streak = 0

    def require_hope(self, number: int, fault: str, where: str) -> None:
        """Ends the run where it went wrong too often.

        Args:
            number: of the step that tripped.
            fault: what it tripped by.
            where: the file that names the rows.

        Raises:
            WorkError: too many steps were set aside, or the run may not go back once more.
        """
        limits, retreats = self.limits, self.retreats
        if self.retreating and len(retreats) >= limits.max_retries:
            went = f" although the run went back {_times(len(retreats))}" + (
                f", at last with {self.rate_factor:.3g} of the learning rate" if self.rate_factor < 1 else ""
            )
            what = (
                f"{TOO_MANY_IN_A_ROW} steps in a row went wrong, the last of them step {number}{went * bool(retreats)}"
            )
            hint = "lower training.learning_rate and train anew; the rows of these steps are in the file above"
            raise WorkError(Fault(f"{what}: {fault}", where, hint=hint))
        if not self.retreating and self.quarantined > limits.max_quarantined_steps:
            what = f"{self.quarantined} steps went wrong, the last of them step {number}: {fault}"
            allowed = f"at most {limits.max_quarantined_steps}: training.guards.max_quarantined_steps"
            hint = "look at the rows in that file: mend the data and train anew, or allow more and go on with --resume"
            raise WorkError(Fault(what, where, allowed, hint))

    def require_any_good(self) -> None:
        """Ends a run that is at its end and of which no step was good.

        Raises:
            WorkError: there was none.
        """
        if self.active and not self._losses:
            hint = "lower training.learning_rate, or mend the rows that quarantine.jsonl in the run folder names"
            raise WorkError(Fault(f"every step went wrong, the last one {self.tripped}", "training", hint=hint))

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, for a checkpoint."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "streak": self.streak,
            "quarantined": self.quarantined,
            "left_out": list(self.left_out.items()),
            "retreats": self.retreats,
            "good_step": self.good_step,
            "tripped": self.tripped,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `state` gave; from nothing, as it began."""
        for kept, name in ((self._losses, "losses"), (self._norms, "norms")):
            kept.clear()
            kept.extend(state.get(name, ()))
        self.streak, self.quarantined, self.good_step = (
            int(state.get(name, 0)) for name in ("streak", "quarantined", "good_step")
        )
        self.left_out.clear()  # the feed looks at this very mapping
        self.left_out.update({int(number): int(step) for number, step in state.get("left_out", ())})
        self.tripped = state.get("tripped", "")
        self.retreats = [dict(one) for one in state.get("retreats", ())]


def usual(values: Iterable[float], factor: float, least_spread: float, offset: float = 0.0) -> float:
    """The highest of such values that is not a spike: by so many spreads above the median, both of the logarithms.

    Losses of few rows, and gradient norms, differ by factors. The spread is the median absolute deviation, scaled to a
    normal distribution's standard deviation (Rousseeuw and Croux, 1993): a spike among the values does not move it.

    Args:
        values: not negative.
        factor: spreads above the median.
        least_spread: below which nothing is one.
        offset: added to each value before its logarithm is taken: what is far below it does not differ.
    """
    logs = [math.log(max(value + offset, _TINY)) for value in values]
    median = statistics.median(logs)
    deviation = _NORMAL * statistics.median(abs(value - median) for value in logs)
    highest = median + factor * max(deviation, least_spread)
    return math.exp(min(highest, _LARGEST_LOG)) - offset


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
