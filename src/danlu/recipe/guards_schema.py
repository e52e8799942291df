"""Recipe keys of what watches over a run while it trains."""

from __future__ import annotations

from pydantic import Field

from danlu.recipe.base import Section


class GuardsSection(Section):
    """What is done about a step that goes wrong; on unless it is null."""

    spike_factor: float | None = Field(
        6.0,
        gt=1.0,
        description="A step trips when its loss or gradient norm is so many spreads above the median of the steps "
        "before it (2.5 times an even loss, more where losses differ); null: only when one of them is not finite.",
    )
    window_steps: int = Field(32, ge=8, description="The so many last good steps are what is usual.")
    max_quarantined_steps: int = Field(
        20, ge=0, description="Steps that may be set aside with their rows; one more ends the run."
    )
    max_retries: int = Field(
        3,
        ge=0,
        description="When three steps in a row trip, go back to the last good checkpoint, so often at most; "
        "0: end the run, and keep no checkpoint for it.",
    )
    learning_rate_factor: float | None = Field(
        0.3, gt=0.0, lt=1.0, description="Times the learning rate, with each going back; null: the same rate."
    )
    shrink_micro_batch: bool = Field(
        True, description="Where memory is not enough, do the same step again in smaller micro-batches."
    )
    stuck_step_seconds: float | None = Field(
        600.0, gt=0.0, description="Say so when a step takes at least so long, and longer than usual; null: never."
    )
    stuck_step_factor: float = Field(20.0, ge=1.0, description="Longer than usual is so many median steps.")
    abort_stuck_step: bool = Field(False, description="End the program then, with status 1.")
