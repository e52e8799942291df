"""Whether a run learned too much, too little or well enough, told from its curves; and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_RISE = 0.05  # of the held-out loss above its lowest, as a share of that
_FALL = 0.05  # of the training loss meanwhile
_HARDLY = 0.05  # a training loss that fell by less is hardly lower
_STILL_FALLING = 0.1  # of all that the loss fell by, in the last quarter of the steps
_FEWEST_STEPS = 8


@dataclass(frozen=True)
class Verdict:
    """What the curves of a run say.

    Attributes:
        kind: `overfitting`, `underfitting`, `unstable`, `healthy` or `unknown`.
        text: why, in one sentence, with the figures.
        changes: what to try, the likeliest first; empty if all is well.
        rows: that were trained on.
        parameters: that were trained.
    """

    kind: str
    text: str
    changes: tuple[str, ...]
    rows: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "changes": list(self.changes)}


@dataclass(frozen=True)
class Curves:
    """The losses of a run.

    Attributes:
        training: of each step, in order.
        held: step and loss of each evaluation.
        epoch: passes over the rows after each step.
    """

    training: list[float]
    held: list[tuple[int, float]]
    epoch: list[float]

    @classmethod
    def of(cls, lines: Sequence[dict[str, Any]]) -> Curves:
        """Those of a run's metrics."""
        held = [(line["step"], line["evaluation_loss"]) for line in lines if line.get("evaluation_loss") is not None]
        training: list[float] = []
        for line in lines:  # a step that was set aside shows the loss before it
            loss = None if line.get("fault") else line["loss"]
            training.append(loss if loss is not None else training[-1] if training else 0.0)
        return cls(training, held, [line["epoch"] for line in lines])

    def around(self, step: int) -> float:
        """The training loss near a step, smoothed over a twentieth of the run."""
        reach = max(1, len(self.training) // 40)
        return _mean(self.training[max(0, step - 1 - reach) : step + reach])

    @property
    def first(self) -> float:
        """The training loss of the first twentieth of the steps."""
        return _mean(self.training[: max(1, len(self.training) // 20)])

    @property
    def last(self) -> float:
        """The training loss of the last tenth of the steps."""
        return _mean(self.training[-max(1, len(self.training) // 10) :])


def judge(lines: Sequence[dict[str, Any]], rows: int, parameters: int, saved_step: int) -> Verdict:
    """The verdict on a run.

    Overfitting: the held-out loss ended 5 % or more above its lowest while the training loss fell by 5 % or more; if
    it did not, the run is unstable. Underfitting: the training loss fell by less than 5 %, or a tenth or more of
    all that the held-out loss fell by was in the last quarter of the steps.

    Args:
        lines: of the run's metrics.
        rows: that were trained on.
        parameters: that were trained.
        saved_step: whose weights are saved.
    """
    curves = Curves.of(lines)
    for look in (_too_few, _risen, _hardly_learned, _falling, _unseen):
        found = look(curves, saved_step)
        if found is not None:
            break
    else:
        found = "healthy", f"the held-out loss came to {curves.held[-1][1]:.3f} and had settled", ()
    kind, why, changes = found
    on = f" on {rows:,} rows, {parameters / rows:,.0f} a row" if rows else ""
    text = f"{why}; {parameters:,} parameters were trained{on}"
    return Verdict(kind, text, changes, rows, parameters)


_Found = tuple[str, str, tuple[str, ...]] | None


def _too_few(curves: Curves, _saved: int) -> _Found:
    steps = len(curves.training)
    if steps >= _FEWEST_STEPS:
        return None
    return "unknown", f"{steps} steps are too few to tell", ("more rows, or a larger training.num_epochs",)


def _risen(curves: Curves, saved_step: int) -> _Found:
    if len(curves.held) < 2:
        return None
    (best, lowest), (_, last) = min(curves.held, key=lambda point: point[1]), curves.held[-1]
    if last < lowest * (1 + _RISE):
        return None
    then, epoch = curves.around(best), curves.epoch[best - 1]
    rose = f"after step {best} (epoch {epoch:.2g}) the held-out loss rose from {lowest:.3f} to {last:.3f}"
    if curves.last > (1 - _FALL) * then:
        why = f"{rose}, and the training loss went from {then:.3f} to {curves.last:.3f}"
        return "unstable", why, ("a smaller training.learning_rate, by 3 to 10 times", "a longer warm-up")
    why = f"{rose} while the training loss fell from {then:.3f} to {curves.last:.3f}"
    keep = f"training.save=best training.early_stopping={{patience: 3}}: keeps the weights of step {best}"
    length = f"training.num_epochs={epoch:.2g}" if epoch >= 0.05 else f"training.max_steps={best}"
    shorter = f"{length}: so far the held-out rows gained"
    others = ("more rows, of more kinds", "fewer parameters: a smaller adapter.rank, fewer adapter.target_modules")
    damped = "adapter.dropout=0.1, training.weight_decay=0.1 or training.neftune_noise_alpha=5"
    if saved_step == best:
        why += f" (what is saved is of step {best})"
    return "overfitting", why, (*([] if saved_step == best else [keep]), shorter, *others, damped)


def _hardly_learned(curves: Curves, _saved: int) -> _Found:
    first, last = curves.first, curves.last
    if last <= (1 - _HARDLY) * first:
        return None
    why = f"the training loss hardly fell, from {first:.3f} to {last:.3f}"
    changes = ("a larger training.learning_rate, by 3 to 10 times", "more steps: training.num_epochs")
    more = "adapter.target_modules=all-linear, or a larger adapter.rank"
    return "underfitting", why, (*changes, more, "nothing, if the base knew these answers before")


def _falling(curves: Curves, _saved: int) -> _Found:
    steps = len(curves.training)
    held = curves.held if len(curves.held) > 1 else []
    before = next((loss for step, loss in reversed(held) if step <= 0.75 * steps), None)
    start, end = (before, held[-1][1]) if before is not None else (curves.around(steps * 3 // 4), curves.last)
    fell = start - end
    if fell < _STILL_FALLING * (curves.first - end):
        return None
    what = "held-out" if before is not None else "training"
    why = f"the {what} loss was still falling, from {start:.3f} to {end:.3f} in the last quarter of the steps"
    return "underfitting", why, ("more steps: a larger training.num_epochs", "a larger training.learning_rate")


def _unseen(curves: Curves, _saved: int) -> _Found:
    """What can't be told, with too few looks at held-out rows."""
    if not curves.held:
        return "unknown", "no rows were held out, so only the training loss is known", ("data.evaluation={share: 0.1}",)
    if len(curves.held) > 1 or curves.epoch[-1] <= 1.0:
        return None
    hint = f"training.evaluate_every_steps={max(1, len(curves.training) // 10)}"
    return "unknown", "the held-out loss was taken once, so its course is not known", (hint,)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def verdict_lines(verdict: dict[str, Any]) -> list[str]:
    """For people: the verdict, and a line for each change to try."""
    return [f"{verdict['kind']}: {verdict['text']}", *(f"  try {change}" for change in verdict["changes"])]
