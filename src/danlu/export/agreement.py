"""An engine against a run's probes: prompts, end tokens, next tokens, greedy answers.

A thin form of the parity gate, for engines of every format.
"""

from __future__ import annotations

from typing import Any

import torch

from danlu.engines.interface import Sampling, ScoringEngine
from danlu.training.probes import Probes


def agreement(engine: ScoringEngine, probes: Probes, against: str = "float32") -> dict[str, Any]:
    """The figures of one engine, with the keys that a parity's dtype has, and `faults`."""
    expected = [probe.expected[against] for probe in probes.probes]
    faults = []
    ids = [engine.prompt_ids(probe.messages) != probe.prompt_ids for probe in probes.probes]
    if any(ids):
        faults.append(f"prompt: {sum(ids)} of {len(ids)} prompts have other ids than in training")
    ends = {*engine.stop_ids, *getattr(engine, "also_ends_at", ())}
    if not set(probes.stop_ids) <= ends or not set(engine.stop_ids) <= set(probes.stop_ids):
        faults.append(f"stop tokens: {engine.stop_ids}, in training {probes.stop_ids}")
    agreed, positions, difference = 0, 0, 0.0
    for probe, wanted in zip(probes.probes, expected, strict=True):
        found = engine.next_tokens(probe.prompt_ids, wanted.answer_ids, wanted.token_ids)
        agreed += int((found.likeliest == wanted.token_ids[:, 0]).sum())
        positions += len(wanted.answer_ids)
        # Logits are known up to a constant of each position.
        off = found.log_probabilities - wanted.logits
        off = (off - off[:, :1]).abs()
        difference = max(difference, float(off[~torch.isnan(off)].max()) if (~torch.isnan(off)).any() else float("inf"))
    answers = engine.generate([probe.messages for probe in probes.probes], Sampling(probes.max_new_tokens))
    return {
        "max_logit_difference": difference,
        "argmax_agreement": agreed / positions,
        "greedy_equal": sum(
            answer.text == wanted.text and (answer.finish == "stop") == (wanted.answer_ids[-1] in probes.stop_ids)
            for answer, wanted in zip(answers, expected, strict=True)
        ),
        "prompts": len(expected),
        "positions": positions,
        "against": against,
        "faults": faults,
    }
