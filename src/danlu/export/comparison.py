"""An engine against what the run recorded: figures, and the bounds that each format must keep to."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from danlu.engines.interface import NextTokens, Sampling, ScoringEngine
from danlu.training.probes import Expected, Probes


@dataclass(frozen=True)
class Bounds:
    """What an export must reach. Logits and divergences in nats.

    Attributes:
        max_logit_difference: at most this between any two log-probabilities of a position's likeliest tokens.
        mean_kl: at most this for the mean KL divergence of the next token's distribution from the recorded one.
        argmax_agreement: at least this share of the positions has the same likeliest token.
        greedy_equal: at least this share of the greedy answers is the same text, ended in the same way.
    """

    max_logit_difference: float
    mean_kl: float
    argmax_agreement: float
    greedy_equal: float


_ANY = math.inf
# By the dtype of a merged folder's weights, or by the format and its type. float32 differs from base + adapter by the
# order of additions alone. bfloat16 keeps 8 bits of each weight, float16 11. What keeps fewer says otherwise than the
# model at some places, and how often is told; these bounds are wide enough for that, and too narrow for a fault.
# Measured on the embedded model's LoRA, DoRA and QLoRA and on a T5 (20 probes each, docs/en/export.md), the worst:
# float32 7e-5 nats and a KL of 1.3e-7; f32 2.5e-4 and 2.2e-6; f16 0.04 and 3.8e-6; bfloat16 0.9 and 8e-4; int8 1.5 and
# 1.3e-3; q8_0 1.6 and 2e-3; q4_k_m 8.7 and 0.03; onnx-int8 17 and 0.3. Answers: see there. The bounds of the other
# types follow from the number of bits and were not measured.
BOUNDS = {
    "float32": Bounds(1e-3, 1e-6, 1.0, 1.0),
    "float16": Bounds(0.2, 1e-3, 0.99, 0.95),
    "bfloat16": Bounds(1.0, 0.02, 0.95, 0.8),
    "onnx": Bounds(1e-2, 1e-5, 0.99, 0.95),
    "onnx-int8": Bounds(_ANY, 0.5, 0.85, 0.0),
    "int8": Bounds(_ANY, 0.05, 0.95, 0.5),
    "awq": Bounds(_ANY, 0.5, 0.8, 0.0),
    "gptq": Bounds(_ANY, 0.5, 0.8, 0.0),
    "f32": Bounds(1e-2, 1e-5, 0.99, 0.95),
    "f16": Bounds(0.5, 1e-3, 0.99, 0.9),
    "bf16": Bounds(2.0, 0.02, 0.95, 0.8),
    "q8_0": Bounds(_ANY, 0.02, 0.95, 0.7),
    "q6_k": Bounds(_ANY, 0.1, 0.92, 0.4),
    **dict.fromkeys(("q5_0", "q5_1", "q5_k_s", "q5_k_m"), Bounds(_ANY, 0.2, 0.9, 0.2)),
    **dict.fromkeys(("q4_0", "q4_1", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs"), Bounds(_ANY, 0.5, 0.8, 0.0)),
    **dict.fromkeys(("q3_k_s", "q3_k_m", "q3_k_l"), Bounds(_ANY, 1.0, 0.65, 0.0)),
    "q2_k": Bounds(_ANY, 2.0, 0.5, 0.0),
}


@dataclass(frozen=True)
class Comparison:
    """An export computed in one dtype against the probes in one dtype.

    Attributes:
        max_logit_difference: largest over all positions and their 32 likeliest tokens, of log-probabilities, in nats.
        mean_kl: KL divergence of the engine's distribution from the recorded one, over these tokens and all others as
            one; mean of the positions, in nats; NaN where the run did not record enough for it.
        max_kl: of the worst position.
        argmax_agreement: share of positions with the same likeliest token.
        greedy_equal: number of greedy answers with the same text.
        prompts: number of probes.
        positions: number of compared next-token distributions.
        against: dtype of the probes.
        greedy_by: `generation`, or `positions`: the likeliest token was that of the answer at each place of it.
    """

    max_logit_difference: float
    mean_kl: float
    max_kl: float
    argmax_agreement: float
    greedy_equal: int
    prompts: int
    positions: int
    against: str
    greedy_by: str = "generation"

    def to_json(self) -> dict[str, Any]:
        """With null for what is no number."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }

    def out_of(self, bounds: Bounds) -> list[str]:
        """What does not keep to the bounds, in words."""
        faults = []
        if not self.max_logit_difference <= bounds.max_logit_difference:
            faults.append(
                f"logits: differ by up to {self.max_logit_difference:.5g}, allowed {bounds.max_logit_difference:g}"
            )
        if self.mean_kl > bounds.mean_kl:
            faults.append(f"probabilities: KL divergence {self.mean_kl:.3g} on average, allowed {bounds.mean_kl:g}")
        if self.argmax_agreement < bounds.argmax_agreement:
            faults.append(f"argmax: {self.argmax_agreement:.2%} agree, required {bounds.argmax_agreement:.0%}")
        if self.greedy_equal < bounds.greedy_equal * self.prompts:
            faults.append(
                f"greedy text: {self.greedy_equal} of {self.prompts} answers are the same, "
                f"required {bounds.greedy_equal:.0%}"
            )
        return faults


class ScoresAll(Protocol):
    """An engine that reads its weights anew for each question, and so takes all questions at once."""

    def next_tokens_of_all(self, probes: Probes, dtype: str) -> list[NextTokens]:
        """For each probe, how likely its recorded tokens are before each token of its recorded answer."""
        ...


def compare(engine: ScoringEngine | ScoresAll, probes: Probes, dtype: str, tells_all: bool = True) -> Comparison:
    """How likely the recorded tokens are along the recorded answers, then the engine's own greedy answers.

    Args:
        engine: of the export.
        probes: of the run.
        dtype: of the probes, for the answers that are expected.
        tells_all: whether the engine knows the probability of every token; one that names only its likeliest is
            asked no more than that the recorded likeliest is among them.
    """
    expected = [probe.expected[dtype] for probe in probes.probes]
    if hasattr(engine, "next_tokens_of_all"):
        scored = engine.next_tokens_of_all(probes, dtype)
    else:
        scored = [
            engine.next_tokens(probe.prompt_ids, wanted.answer_ids, wanted.token_ids)
            for probe, wanted in zip(probes.probes, expected, strict=True)
        ]
    differences = torch.cat([_differences(*pair, tells_all) for pair in zip(scored, expected, strict=True)])
    divergences = torch.cat([_divergences(*pair) for pair in zip(scored, expected, strict=True)])
    agreed = [found.likeliest == wanted.token_ids[:, 0] for found, wanted in zip(scored, expected, strict=True)]
    if hasattr(engine, "next_tokens_of_all"):
        greedy, greedy_by = [bool(same.all()) for same in agreed], "positions"
    else:
        greedy, greedy_by = _greedy(engine, probes, expected), "generation"
    return Comparison(
        max_logit_difference=float(differences.max()),
        mean_kl=float(divergences.mean()),
        max_kl=float(divergences.max()),
        argmax_agreement=float(torch.cat(agreed).float().mean()),
        greedy_equal=sum(greedy),
        prompts=len(expected),
        positions=len(differences),
        against=dtype,
        greedy_by=greedy_by,
    )


def _greedy(engine: ScoringEngine, probes: Probes, expected: list[Expected]) -> list[bool]:
    """Whether each answer has the recorded text and ends as it did, by a stop token or by its length."""
    answers = engine.generate([probe.messages for probe in probes.probes], Sampling(probes.max_new_tokens))
    return [
        answer.text == wanted.text and (answer.finish == "stop") == (wanted.answer_ids[-1] in probes.stop_ids)
        for answer, wanted in zip(answers, expected, strict=True)
    ]


def _differences(found: NextTokens, wanted: Expected, tells_all: bool) -> torch.Tensor:
    """`[A]` the largest difference of log-probabilities; infinite where the engine does not know what it must."""
    off = found.log_probabilities.double() - wanted.logits.double()
    untold = off.isnan()
    if wanted.logsumexp is not None:
        off = off + wanted.logsumexp.double().unsqueeze(1)
    else:  # known up to a constant of each position
        off = off - off.nanmean(1, keepdim=True)
    unknown = untold.any(1) if tells_all else untold[:, 0]
    largest = off.abs().nan_to_num(0.0, posinf=math.inf).amax(1)
    return largest.masked_fill(unknown, math.inf)


def _divergences(found: NextTokens, wanted: Expected) -> torch.Tensor:
    """`[A]` Σ p·log(p/q) over the tokens that are known, and all others as one."""
    if wanted.logsumexp is None:
        return torch.full((len(wanted.answer_ids),), math.nan, dtype=torch.float64)
    log_p = wanted.logits.double() - wanted.logsumexp.double().unsqueeze(1)
    log_q, told = found.log_probabilities.double(), ~found.log_probabilities.isnan()
    p, q = log_p.exp() * told, log_q.nan_to_num(-math.inf).exp() * told
    each = torch.where(told, p * (log_p - log_q.nan_to_num(0.0)), 0.0).sum(1)
    # Rounding leaves the rest of a distribution known to about 1e-7 only.
    rest_p, rest_q = ((1 - part.sum(1)).clamp(min=1e-6) for part in (p, q))
    divergences: torch.Tensor = (each + rest_p * (rest_p / rest_q).log()).clamp(min=0.0)
    return divergences
