"""An adapter against its run's probes, in the engine that is to serve it, before anybody is answered by it."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.engines.answers import next_tokens_of
from danlu.engines.batching import BatchingEngine
from danlu.engines.interface import NextTokens
from danlu.errors import Fault, GateError
from danlu.export.comparison import BOUNDS, Bounds, Comparison, compare
from danlu.training.probes import Probes


@dataclass(frozen=True)
class _Scores:
    """See `danlu.export.comparison.ScoresAll`."""

    engine: BatchingEngine
    adapter: str

    def next_tokens_of_all(self, probes: Probes, dtype: str) -> list[NextTokens]:
        """For each probe, how likely its recorded tokens are before each token of its recorded answer.

        Others are answered between two probes.
        """
        found = []
        for probe in probes.probes:
            wanted = probe.expected[dtype]
            logits = self.engine.logits(self.adapter, probe.prompt_ids, wanted.answer_ids)
            found.append(next_tokens_of(logits, wanted.token_ids))
        return found


def prove(engine: BatchingEngine, adapter: str, probes: Probes, dtype: str, where: str) -> dict[str, object]:
    """Requires that an adapter says in the engine what it said when it was trained.

    Prompts are made from the messages by the engine's own template and tokenizer; the bounds are those of the parity
    gate for this dtype. Where the likeliest token is the recorded one at each place, so is the greedy answer.

    Args:
        engine: with the adapter on.
        adapter: its name there.
        probes: of its run.
        dtype: that the engine computes in, as in `float32`.
        where: for the message.

    Returns:
        The figures.

    Raises:
        GateError: with everything that was missed.
    """
    faults = []
    if set(probes.stop_ids) != set(engine.stop_ids):
        faults.append(f"answers end at {sorted(engine.stop_ids)}, and were trained to at {sorted(probes.stop_ids)}")
    if any(engine.prompt_ids(probe.messages) != probe.prompt_ids for probe in probes.probes):
        faults.append("the prompts have other tokens than in training: template or tokenizer changed")
    against = dtype if all(dtype in probe.expected for probe in probes.probes) else "float32"
    return judge(faults, compare(_Scores(engine, adapter), probes, against), BOUNDS[dtype], where)


def judge(faults: list[str], comparison: Comparison, bounds: Bounds, where: str) -> dict[str, object]:
    """The figures, where there is no fault and they keep to the bounds.

    Raises:
        GateError: with all faults, and everything that was missed.
    """
    faults = faults + comparison.out_of(bounds)
    if faults:
        hint = "it would not answer as it was trained; export and check the run, or train again"
        raise GateError(*(Fault(fault, where, hint=hint) for fault in faults), result={"parity": comparison.to_json()})
    return comparison.to_json()
