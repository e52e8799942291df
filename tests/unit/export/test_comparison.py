"""The gate's figures against a float64 formula over the whole vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from danlu.engines.interface import Answer, NextTokens, Sampling
from danlu.export.comparison import BOUNDS, Bounds, compare
from danlu.training.probes import Expected, Probe, Probes

VOCABULARY, LENGTH, TOP = 200, 7, 32


def probe_of(logits: torch.Tensor, remembers_all: bool = True) -> Probe:
    """A probe whose model said these logits `[LENGTH, VOCABULARY]`."""
    top = logits.topk(TOP, -1)
    ids = logits.argmax(-1).tolist()
    normaliser = logits.logsumexp(-1) if remembers_all else None
    expected = Expected(ids, "text", top.indices.int(), top.values, normaliser)
    return Probe([{"role": "user", "content": "?"}], "?", [1, 2], {"float32": expected})


@dataclass
class Said:
    """An engine that says given logits; it tells of the likeliest `told` tokens alone, if that is set."""

    logits: torch.Tensor
    answer: Answer
    told: int | None = None
    stop_ids: tuple[int, ...] = ()

    def prompt_ids(self, messages: Any) -> list[int]:
        return [1, 2]

    def next_tokens(self, prompt: Any, answer: Any, asked: torch.Tensor) -> NextTokens:
        found = self.logits.log_softmax(-1).gather(-1, asked.long())
        if self.told:
            least = self.logits.log_softmax(-1).topk(self.told, -1).values[:, -1:]
            found = found.masked_fill(found < least, math.nan)
        return NextTokens(self.logits.argmax(-1), found)

    def generate(self, conversations: Any, sampling: Sampling, tuned: bool = True) -> list[Answer]:
        return [self.answer] * len(conversations)


def engine(logits: torch.Tensor, text: str = "text", told: int | None = None) -> Any:
    return Said(logits, Answer((1,), text, "length"), told)


@pytest.fixture
def two() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(LENGTH, VOCABULARY) * 3
    return logits, logits + 0.1 * torch.randn(LENGTH, VOCABULARY)


def test_divergence_is_that_of_the_top_tokens_and_all_others_as_one(two: tuple[torch.Tensor, torch.Tensor]) -> None:
    before, after = two
    found = compare(engine(after), Probes([], 8, [probe_of(before)]), "float32")
    p, q = (logits.double().softmax(-1) for logits in two)
    places = before.topk(TOP, -1).indices
    p, q = (torch.cat([one.gather(-1, places), 1 - one.gather(-1, places).sum(-1, keepdim=True)], -1) for one in (p, q))
    divergence = (p * (p / q).log()).sum(-1)
    assert found.mean_kl == pytest.approx(float(divergence.mean()), rel=1e-4)
    assert found.max_kl == pytest.approx(float(divergence.max()), rel=1e-4)
    exact = torch.nn.functional.kl_div(
        after.double().log_softmax(-1), before.double().softmax(-1), reduction="none"
    ).sum(-1)
    assert found.mean_kl <= float(exact.mean()) + 1e-9, "what is put together can only hide a difference"


def test_differences_and_agreement_are_those_of_log_probabilities(two: tuple[torch.Tensor, torch.Tensor]) -> None:
    before, after = two
    found = compare(engine(after, "other"), Probes([], 8, [probe_of(before)]), "float32")
    places = before.topk(TOP, -1).indices
    off = (after.log_softmax(-1) - before.log_softmax(-1)).gather(-1, places).abs()
    assert found.max_logit_difference == pytest.approx(float(off.max()), rel=1e-4)
    same = (before.argmax(-1) == after.argmax(-1)).float().mean()
    assert found.argmax_agreement == pytest.approx(float(same))
    assert (found.greedy_equal, found.positions, found.against) == (0, LENGTH, "float32")


def test_probes_that_do_not_know_the_normaliser_are_judged_without_the_divergence(
    two: tuple[torch.Tensor, torch.Tensor],
) -> None:
    before, _ = two
    found = compare(engine(before + 5.0), Probes([], 8, [probe_of(before, remembers_all=False)]), "float32")
    assert math.isnan(found.mean_kl)
    assert found.to_json()["mean_kl"] is None
    assert found.max_logit_difference == pytest.approx(0.0, abs=1e-4), "a constant of a position is no difference"
    assert not found.out_of(BOUNDS["float32"])


def test_what_an_engine_does_not_tell_counts_as_wrong_unless_it_tells_of_the_likeliest_alone(
    two: tuple[torch.Tensor, torch.Tensor],
) -> None:
    before, _ = two
    probes = Probes([], 8, [probe_of(before)])
    assert compare(engine(before, told=8), probes, "float32").max_logit_difference == math.inf
    assert compare(engine(before, told=8), probes, "float32", tells_all=False).max_logit_difference < 1e-4
    swapped = before.roll(1, -1)
    assert compare(engine(swapped, told=1), probes, "float32", tells_all=False).max_logit_difference == math.inf


def test_each_figure_that_is_out_of_bounds_is_told(two: tuple[torch.Tensor, torch.Tensor]) -> None:
    before, after = two
    found = compare(engine(after.roll(3, -1), "other"), Probes([], 8, [probe_of(before)]), "float32")
    said = " ".join(found.out_of(Bounds(0.1, 1e-3, 1.0, 1.0)))
    assert all(word in said for word in ("logits: differ", "KL divergence", "argmax: ", "greedy text: 0 of 1"))
    assert not found.out_of(Bounds(math.inf, math.inf, 0.0, 0.0))
