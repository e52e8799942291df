"""One forward and backward pass on the meta device: what it would hold at the worst moment, what it would compute."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from danlu.data.template import Document
from danlu.planning.ghost import Ghost, ProcessorAttention
from danlu.planning.meter import Cost, Meter

ACTIVATIONS, LOSS, BACKWARD, GRADIENTS = "activations", "loss", "backward", "gradients"


@dataclass(frozen=True)
class Pass:
    """What one micro-batch takes.

    Attributes:
        at_peak: bytes by part (`activations`, `loss`, `backward`, `gradients`) at the worst moment, beside the model.
        forward: cost of the forward pass.
        whole: cost of both passes.
        below: cost of layers that are computed once for all epochs.
        made_weights: weights made from fewer bits.
        num_tokens: computed tokens, what fills up among them.
        num_targets: trained tokens.
    """

    at_peak: Counter[str]
    forward: Cost
    whole: Cost
    below: Cost
    made_weights: int
    num_tokens: int
    num_targets: float


def drawn_out(few: Pass, more: Pass, factor: float) -> Pass:
    """The pass at another number of layers on the straight line through two: each layer adds the same.

    What the loss holds, and what a backward pass holds for the layer that it is in, does not grow with layers.

    Args:
        few: with fewer layers.
        more: with more.
        factor: place on the line: 0 for few, 1 for more.
    """

    def line(low: float, high: float) -> float:
        return low + (high - low) * factor

    def counts(low: Counter[Any], high: Counter[Any]) -> Counter[Any]:
        return Counter({key: line(low[key], high[key]) for key in low.keys() | high.keys()})

    def cost(low: Cost, high: Cost) -> Cost:
        operations = counts(low.operations, high.operations)
        return Cost(operations, line(low.bytes_moved, high.bytes_moved), round(line(low.calls, high.calls)))

    at_peak = counts(few.at_peak, more.at_peak) | {part: more.at_peak[part] for part in (LOSS, BACKWARD)}
    return Pass(
        Counter({part: round(size) for part, size in at_peak.items()}),
        cost(few.forward, more.forward),
        cost(few.whole, more.whole),
        cost(few.below, more.below),
        round(line(few.made_weights, more.made_weights)),
        few.num_tokens,
        few.num_targets,
    )


def measure_pass(ghost: Ghost, documents: list[Document], accumulates: bool) -> Pass:
    """Runs a micro-batch through a ghost.

    Args:
        ghost: in training mode or not; is left in it.
        documents: of the micro-batch.
        accumulates: whether gradients of an earlier micro-batch are there already.
    """
    ghost.model.train()
    trained = [parameter for parameter in ghost.model.parameters() if parameter.requires_grad]
    meter = Meter()
    meter.know(*ghost.model.parameters(), *ghost.model.buffers())
    with meter:
        batch = ghost.batch(documents)
        below, made = meter.cost.copy(), ghost.made.weights
        meter.forget_peak()
        for parameter in trained:
            parameter.grad = parameter.detach().clone() if accumulates else None
            if accumulates:
                meter.move(parameter.grad, GRADIENTS)
        meter.cost = Cost()
        hooks = [one.register_post_accumulate_grad_hook(lambda p: meter.move(p.grad, GRADIENTS)) for one in trained]
        hooks.append(ghost.head_input.register_forward_hook(lambda *_: meter.begin(LOSS)))
        try:
            with ProcessorAttention():
                meter.begin(ACTIVATIONS)
                loss, weight = ghost.objective(ghost.called, batch)
                forward = meter.cost.copy()
                meter.begin(BACKWARD)
                (loss / weight).backward()
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in trained:
                parameter.grad = None
    computed: Any = getattr(batch, "num_computed", 0)
    return Pass(meter.at_peak, forward, meter.cost, below, ghost.made.weights - made, computed, float(weight))
